#include "convert/recipes/repack_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "convert/model/scale_fmt.h"
#include "convert/recipes/check_scales.h"
#include "formats/error.h"
#include "formats/io/aligned_buffer.h"
#include "formats/message_text.h"
#include "quant/codec.h"
#include "quant/repack.h"

namespace dsv3::convert {
namespace {

using quant::E2M1Set;

// Rows that are looked at together where the scales do not show enough; a multiple of the rows of
// blocks is taken.
constexpr std::uint64_t kBandRows = 128;

using ScaleBytes = RepackCheck::ScaleBytes;

struct Range {
  int largest = -1;  // -1: the tensor is empty
  int smallest = 0;
};

Range RangeOf(const ScaleBytes& bytes) {
  Range range;
  for (int i = 0; i < 256; ++i) {
    if (!bytes[static_cast<std::size_t>(i)]) continue;
    if (range.largest < 0) range.smallest = i;
    range.largest = i;
  }
  return range;
}

std::string Power(int e8m0) { return fmt::format("2^{}", e8m0 - 127); }

// Proves that no bit of a weight is lost.
class Judge {
 public:
  Judge(const Catalog& catalog, const RepackedModel& repacked, const std::vector<ScaleBytes>& bytes,
        const std::vector<float>& tensor_scales, SourceFiles& sources, const StopToken& stop)
      : catalog_(catalog),
        repacked_(repacked),
        bytes_(bytes),
        tensor_scales_(tensor_scales),
        sources_(sources),
        stop_(stop) {}

  // `has_codes`: whether the weight's codes are still there. Without them it was judged before.
  void Run(std::size_t at, bool has_codes) {
    has_codes_ = has_codes;
    if (!repacked_.weights[at].IsMxFp4()) {
      JudgeTensorScale(at);
    } else if (repacked_.target == RepackTarget::kFp8) {
      JudgeFp8(at);
    } else {
      JudgeNvFp4(at);
    }
  }

 private:
  [[noreturn]] void Fail(const RepackedWeight& each, const std::string& what) const {
    const CatalogTensor& codes = catalog_.tensors()[each.weight.weight];
    const std::string& file = catalog_.files()[codes.extent.file].name;
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {}: {}. repack writes nothing that is not exact; "
                            "dequantize and quantise again to round",
                            formats::ShownPath(file), QuoteForMessage(codes.name), what),
                {file, codes.name});
  }

  // "row 5, columns 32 to 63"
  std::string PlaceOf(const RepackedWeight& each, std::uint64_t group) const {
    const std::uint64_t groups = each.weight.ScaleCols();
    const std::uint64_t first = group % groups * each.weight.block.cols;
    return fmt::format("row {}, columns {} to {}", group / groups, first,
                       first + each.weight.block.cols - 1);
  }

  // The scales and codes of some rows.
  struct Band {
    std::uint64_t first_row = 0;
    std::span<const std::byte> scales;
    std::span<const std::byte> codes;
  };

  // Calls `visit` for bands of the weight's rows.
  template <typename Visit>
  void ForEachBand(const ScaledWeight& weight, std::uint64_t band_rows, const Visit& visit) {
    formats::AlignedBuffer buffer;
    std::vector<std::span<const std::byte>> inputs;
    const std::uint64_t groups = weight.ScaleCols();
    for (std::uint64_t row = 0; row < weight.rows; row += band_rows) {
      if (stop_.stopped()) ThrowInterrupted();
      const std::uint64_t end = std::min(weight.rows, row + band_rows);
      const SourceRange ranges[] = {{weight.scale, row * groups, end * groups},
                                    {weight.weight, row * weight.cols / 2, end * weight.cols / 2}};
      sources_.Read(ranges, buffer, inputs);
      visit(Band{row, inputs[0], inputs[1]});
    }
  }

  // The magnitudes of a group, counted in its band.
  static E2M1Set MagnitudesAt(const ScaledWeight& weight, const Band& band, std::uint64_t group) {
    const auto bytes = static_cast<std::size_t>(weight.block.cols / 2);
    const std::span<const std::byte> codes =
        band.codes.subspan(static_cast<std::size_t>(group) * bytes, bytes);
    return quant::MagnitudesOf({reinterpret_cast<const std::uint8_t*>(codes.data()), bytes});
  }

  void JudgeFp8(std::size_t at) {
    if (!has_codes_) return;
    const RepackedWeight& each = repacked_.weights[at];
    const Range range = RangeOf(bytes_[at]);
    if (range.largest < 0) return;
    const auto block = quant::Fp8BlockScale(static_cast<std::uint8_t>(range.largest));
    if (quant::MagnitudesLostInFp8(static_cast<std::uint8_t>(range.smallest), block) == 0) return;
    ForEachBand(each.weight, repacked_.block.rows,
                [&](const Band& band) { JudgeFp8Band(each, band); });
  }

  void JudgeFp8Band(const RepackedWeight& each, const Band& band) const {
    const std::uint64_t groups = each.weight.ScaleCols();
    const std::uint64_t block_groups = repacked_.block.cols / each.weight.block.cols;
    const std::uint64_t rows = band.scales.size() / groups;
    for (std::uint64_t first = 0; first < groups; first += block_groups) {
      const std::uint64_t end = std::min(groups, first + block_groups);
      std::byte largest{0};
      for (std::uint64_t row = 0; row < rows; ++row) {
        for (std::uint64_t group = first; group < end; ++group) {
          largest = std::max(largest, band.scales[row * groups + group]);
        }
      }
      const auto block = quant::Fp8BlockScale(std::to_integer<std::uint8_t>(largest));
      for (std::uint64_t row = 0; row < rows; ++row) {
        for (std::uint64_t group = row * groups + first; group < row * groups + end; ++group) {
          const auto scale = std::to_integer<std::uint8_t>(band.scales[group]);
          const E2M1Set lost = quant::MagnitudesLostInFp8(scale, block);
          if (lost == 0 || (lost & MagnitudesAt(each.weight, band, group)) == 0) continue;
          Fail(each,
               fmt::format(
                   "the block of rows {} to {}, columns {} to {} cannot become FP8: its largest "
                   "scale is {}, and that of {} is {}, too small for the codes there, since "
                   "F8_E4M3 holds them down to 2^-14 of the largest scale",
                   band.first_row, band.first_row + rows - 1, first * each.weight.block.cols,
                   end * each.weight.block.cols - 1, Power(std::to_integer<int>(largest)),
                   PlaceOf(each, band.first_row * groups + group), Power(scale)));
        }
      }
    }
  }

  // The largest scale of a weight and its partners; groups of E8M0's code 0 are those of zeros.
  int LargestOf(std::size_t at) const {
    int largest = 0;
    const auto take = [&](std::size_t weight) {
      largest = std::max(largest, RangeOf(bytes_[weight]).largest);
    };
    take(at);
    for (const std::size_t partner : repacked_.weights[at].partners) take(partner);
    return largest;
  }

  void JudgeNvFp4(std::size_t at) {
    const RepackedWeight& each = repacked_.weights[at];
    constexpr int kOne = 127;
    const int found = LargestOf(at);
    const auto largest = static_cast<std::uint8_t>(found == 0 ? kOne : found);
    each.found->largest = largest;
    const float scale = quant::NvFp4TensorScale(largest);
    each.found->tensor_scale = repacked_.target == RepackTarget::kNvFp4CompressedTensors
                                   ? quant::Reciprocal(scale)
                                   : scale;
    if (!std::isfinite(each.found->tensor_scale)) {
      Fail(each, fmt::format("its largest scale is {}, and weight_global_scale, which divides, "
                             "would be 2^{}, beyond F32",
                             Power(largest), 127 + 8 - largest));
    }
    const Range range = RangeOf(bytes_[at]);
    if (!has_codes_ || range.largest < 0 ||
        !quant::LosesGroupScale(static_cast<std::uint8_t>(range.smallest), largest)) {
      return;
    }
    ForEachBand(each.weight, kBandRows, [&](const Band& band) {
      constexpr E2M1Set kNotZero = 0xFE;
      for (std::uint64_t group = 0; group < band.scales.size(); ++group) {
        const auto scale_of_group = std::to_integer<std::uint8_t>(band.scales[group]);
        if (!quant::LosesGroupScale(scale_of_group, largest) ||
            (MagnitudesAt(each.weight, band, group) & kNotZero) == 0) {
          continue;
        }
        Fail(each, fmt::format("the block of {} cannot become NVFP4: its scale is {}, and the "
                               "largest one{} is {}; NVFP4 holds those down to 2^-17 of it",
                               PlaceOf(each, band.first_row * each.weight.ScaleCols() + group),
                               Power(scale_of_group), OfWhich(each), Power(largest)));
      }
    });
  }

  std::string OfWhich(const RepackedWeight& each) const {
    if (each.partners.empty()) return "";
    return fmt::format(" of this weight and of {}, which has the same tensor scale,",
                       repacked_.weights[each.partners.front()].module);
  }

  void JudgeTensorScale(std::size_t at) {
    const RepackedWeight& each = repacked_.weights[at];
    const quant::TensorScaleUse from = each.weight.tensor_scale_use;
    const float before = tensor_scales_[at];
    const float after = quant::OtherTensorScale(from, before, bytes_[at]);
    each.found->tensor_scale = after;
    std::array<E2M1Set, 256> lost{};
    bool any = !std::isfinite(after) || after == 0;
    for (std::size_t i = 0; i < lost.size(); ++i) {
      if (!bytes_[at][i]) continue;
      lost[i] =
          quant::MagnitudesLostByTensorScale(from, before, after, static_cast<std::uint8_t>(i));
      any = any || lost[i] != 0;
    }
    if (!any || !has_codes_) return;
    ForEachBand(each.weight, kBandRows, [&](const Band& band) {
      for (std::uint64_t group = 0; group < band.scales.size(); ++group) {
        const auto scale = std::to_integer<std::uint8_t>(band.scales[group]);
        if ((lost[scale] & MagnitudesAt(each.weight, band, group)) == 0) continue;
        Fail(each,
             fmt::format("the block of {} cannot become {}: no F32 value near 1 / {} gives "
                         "with its scale {} the same values",
                         PlaceOf(each, band.first_row * each.weight.ScaleCols() + group),
                         RepackTargetName(repacked_.target), before, quant::DecodeE4M3(scale)));
      }
    });
    if (!std::isfinite(after) || after == 0) {
      Fail(each, fmt::format("1 / {} is not a finite F32 value", before));
    }
  }

  const Catalog& catalog_;
  const RepackedModel& repacked_;
  const std::vector<ScaleBytes>& bytes_;
  const std::vector<float>& tensor_scales_;
  SourceFiles& sources_;
  const StopToken& stop_;
  bool has_codes_ = true;  // of the weight that is judged
};

// The scale of activations, which is inverted.
void CheckInputScale(const Catalog& catalog, std::uint32_t input_scale, SourceFiles& sources) {
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  const SourceRange range{input_scale, 0, sizeof(float)};
  sources.Read(std::span(&range, 1), buffer, inputs);
  float value = 0;
  std::memcpy(&value, inputs[0].data(), sizeof value);
  if (value > 0 && std::isfinite(value) && std::isfinite(quant::Reciprocal(value))) return;
  const CatalogTensor& scale = catalog.tensors()[input_scale];
  const std::string& file = catalog.files()[scale.extent.file].name;
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: scale {} is {}, expected a finite positive number with a finite "
                          "inverse; the checkpoint is damaged, download it again",
                          formats::ShownPath(file), QuoteForMessage(scale.name), value),
              {file, scale.name});
}

}  // namespace

RepackCheck::RepackCheck(const Catalog& catalog, const RepackedModel& repacked,
                         const std::vector<formats::FreedShard>& freed)
    : catalog_(catalog),
      repacked_(repacked),
      bytes_(repacked.weights.size()),
      tensor_scales_(repacked.weights.size(), 0.0F),
      looked_(repacked.weights.size(), false) {
  for (const SourceFile& file : catalog.files()) {
    gone_.push_back(formats::FindFreed(freed, file.name, file.path) != nullptr);
  }
  for (std::size_t i = 0; i < repacked.weights.size(); ++i) {
    const ScaledWeight& weight = repacked.weights[i].weight;
    weight_of_.emplace(weight.scale, i);
    if (weight.tensor_scale != Catalog::kNone) weight_of_.emplace(weight.tensor_scale, i);
  }
}

bool RepackCheck::IsGone(std::uint32_t tensor) const {
  return tensor != Catalog::kNone && gone_[catalog_.tensors()[tensor].extent.file];
}

bool RepackCheck::IsDone(const RepackedWeight& each) const {
  // The tensor scale needs the scales of all weights that share it, and keeps them until it is
  // made.
  return IsGone(each.weight.scale) || IsGone(each.weight.tensor_scale) ||
         std::any_of(each.partners.begin(), each.partners.end(), [&](std::size_t partner) {
           return IsGone(repacked_.weights[partner].weight.scale);
         });
}

void RepackCheck::Take(std::uint32_t tensor, std::span<const std::byte> bytes) {
  const std::size_t at = weight_of_.at(tensor);
  if (tensor == repacked_.weights[at].weight.tensor_scale) {
    std::memcpy(&tensor_scales_[at], bytes.data(), sizeof(float));
    return;
  }
  ScaleBytes& seen = bytes_[at];
  for (const std::byte byte : bytes) seen[std::to_integer<std::size_t>(byte)] = true;
}

SideDigests RepackCheck::Look(std::span<const std::size_t> weights, bool sha256,
                              SourceFiles& sources, const SideDigests& known,
                              ProgressSink& progress, const StopToken& stop) {
  std::vector<ScaledWeight> scaled;
  scaled.reserve(weights.size());
  for (const std::size_t i : weights) scaled.push_back(repacked_.weights[i].weight);
  ScaleLook look;
  look.advice = "Download it again";
  look.visit = [this](std::uint32_t tensor, std::span<const std::byte> bytes) {
    Take(tensor, bytes);
  };
  ScaleCheck check = CheckScales(catalog_, scaled, /*allow_bad_scales=*/false, sha256, sources,
                                 progress, stop, known, look);
  zero_scales_ = CheckScalesOfZeros(catalog_, scaled, check.significands);
  Judge judge(catalog_, repacked_, bytes_, tensor_scales_, sources, stop);
  for (const std::size_t i : weights) {
    if (stop.stopped()) ThrowInterrupted();
    const RepackedWeight& each = repacked_.weights[i];
    const std::uint32_t input_scale = each.input_scale;
    if (input_scale != Catalog::kNone && !IsGone(input_scale) &&
        repacked_.target != RepackTarget::kFp8) {
      CheckInputScale(catalog_, input_scale, sources);
    }
    if (!IsDone(each)) judge.Run(i, !IsGone(each.weight.weight));
    looked_[i] = true;
  }
  SideDigests digests = known;
  for (std::size_t i = 0; i < scaled.size(); ++i) {
    digests.emplace(scaled[i].scale, std::move(check.digests[i]));
  }
  for (auto& [tensor, found] : check.beside) digests.emplace(tensor, std::move(found));
  return digests;
}

SideDigests RepackCheck::LookAtAll(bool sha256, const PreflightRun& run, ProgressSink& progress,
                                   const StopToken& stop) {
  std::vector<std::size_t> all(repacked_.weights.size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  SideDigests digests = Look(all, sha256, run.sources, run.known, progress, stop);
  if (zero_scales_) run.warn(*zero_scales_);
  return digests;
}

void RepackCheck::LookAt(std::span<const std::size_t> weights, SourceFiles& sources,
                         ProgressSink& progress, const StopToken& stop) {
  std::vector<std::size_t> wanted;
  const auto want = [&](std::size_t weight) {
    if (!looked_[weight]) wanted.push_back(weight);
  };
  for (const std::size_t weight : weights) {
    want(weight);
    for (const std::size_t partner : repacked_.weights[weight].partners) want(partner);
  }
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  if (!wanted.empty()) Look(wanted, false, sources, {}, progress, stop);
}

}  // namespace dsv3::convert
