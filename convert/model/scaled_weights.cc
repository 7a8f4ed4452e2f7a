#include "convert/model/scaled_weights.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/model/activation_scales.h"
#include "convert/model/coded_weight.h"
#include "convert/model/companions.h"
#include "convert/model/form_evidence.h"
#include "convert/model/quantized_form.h"
#include "convert/model/scale_names.h"
#include "convert/model/scale_rules.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Finding;
using formats::Severity;

constexpr std::string_view kWeight = ".weight";

class Finder {
 public:
  Finder(const Catalog& catalog, const ModelConfig& config)
      : catalog_(catalog),
        config_(config),
        rules_(ReadScaleRules(config)),
        has_other_parts_(HasPartsBeyondScales(catalog)) {}

  ScaledWeights Run() {
    for (std::uint32_t i = 0; i < catalog_.tensors().size(); ++i) {
      if (!VisitScale(i) && !VisitCompanion(i)) VisitWeight(i);
    }
    ReportUnpaired();
    ReportUnevenZeros();
    ReportRules();
    const auto by_position = [](const auto& a, const auto& b) { return a.first < b.first; };
    std::stable_sort(findings_.begin(), findings_.end(), by_position);
    for (auto& [position, finding] : findings_) result_.findings.push_back(std::move(finding));
    return std::move(result_);
  }

 private:
  const CatalogTensor& At(std::uint32_t position) const { return catalog_.tensors()[position]; }

  Finding Make(std::uint32_t tensor, const char* kind, const std::string& message) const {
    const CatalogTensor& t = At(tensor);
    const std::string& file = catalog_.files()[t.extent.file].name;
    return {Severity::kError, kind, file, t.name,
            fmt::format("{}: {}", formats::ShownPath(file), message)};
  }

  void Add(std::uint32_t tensor, const char* kind, const std::string& message) {
    findings_.emplace_back(tensor, Make(tensor, kind, message));
  }

  // Whether the tensor is a scale, or is named so that it cannot be anything else; reports it when
  // it has no FP8 weight.
  bool VisitScale(std::uint32_t i) {
    const auto name = ParseScaleName(At(i).name);
    if (!name) return false;
    const std::uint32_t weight = catalog_.Find(name->weight);
    const bool is_float = weight != Catalog::kNone && IsPlainFloat(At(weight).dtype);
    switch (name->naming) {
      case ScaleNaming::kScaleInv:
        break;
      case ScaleNaming::kWeightScale:
        // V4's hc_attn_scale, caches' k_scale and activations' input_scale have no such weight.
        if ((weight == Catalog::kNone || is_float) && !name->weight.ends_with(kWeight)) {
          return false;
        }
        break;
      case ScaleNaming::kScale:
        if ((weight != Catalog::kNone && !is_float) || At(i).dtype == Dtype::kF8E8M0) break;
        // Other modules have a parameter "scale", too; only E8M0 is sure to be of a weight.
        if (At(i).shape.size() >= 2 && !IsAttentionScale(At(i).name)) doubtful_scales_.push_back(i);
        return false;
    }
    JudgeScale(i, name->weight);
    return true;
  }

  void JudgeScale(std::uint32_t i, std::string_view weight_name) {
    const CatalogTensor& scale = At(i);
    const std::uint32_t weight = catalog_.Find(weight_name);
    if (weight == Catalog::kNone) {
      // Formats that pack several values into a word.
      if (catalog_.Find(std::string(weight_name) + "_packed") != Catalog::kNone) return;
      Add(i, "scale-without-weight",
          fmt::format("scale {} has no weight: there is no tensor {}; the checkpoint is incomplete",
                      QuoteForMessage(scale.name), QuoteForMessage(weight_name)));
    } else if (IsPlainFloat(At(weight).dtype)) {
      Add(i, "scale-of-unquantized-weight",
          fmt::format("scale {} belongs to {}, which is {} and not FP8; was the checkpoint "
                      "converted in part?",
                      QuoteForMessage(scale.name), QuoteForMessage(weight_name),
                      formats::DtypeName(At(weight).dtype)));
    } else if (!IsFp8(At(weight).dtype) && !RecogniseForm(catalog_, config_, weight)) {
      ReportForm(weight, std::string(formats::DtypeName(At(weight).dtype)));
    }
  }

  // Whether the tensor is one that belongs beside codes, and there are none; reports it.
  bool VisitCompanion(std::uint32_t i) {
    const std::optional<std::string> orphan = DescribeOrphan(catalog_, i);
    if (!orphan) return false;
    Add(i, "companion-without-codes", *orphan);
    return true;
  }

  void VisitWeight(std::uint32_t i) {
    const CatalogTensor& tensor = At(i);
    if (const auto form = RecogniseForm(catalog_, config_, i)) {
      ReportForm(i, form->name);
      if (!form->scale.empty() && catalog_.Find(form->scale) == Catalog::kNone) {
        Add(i, "missing-scale",
            fmt::format("tensor {} holds {} weights, but its scale {} is in no shard; without it "
                        "the weight means nothing. The checkpoint is incomplete, download it again",
                        QuoteForMessage(tensor.name), form->name, QuoteForMessage(form->scale)));
      }
      CodedWeight coded = ReadCodedWeight(catalog_, config_, i);
      for (const CodedWeight::Fault& fault : coded.faults) {
        Add(fault.tensor, fault.kind, fault.message);
      }
      if (coded.weight) result_.readable.push_back(*coded.weight);
      result_.formed.back().unread = std::move(coded.unread);
      return;
    }
    if (!IsFp8(tensor.dtype)) return;
    has_fp8_ = true;
    std::uint32_t scale = Catalog::kNone;
    for (const ScaleNaming naming : kScaleNamings) {
      const std::uint32_t found = catalog_.Find(ScaleNameOf(tensor.name, naming));
      // Two ways of naming may give one name.
      if (found == Catalog::kNone || found == scale) continue;
      if (scale != Catalog::kNone) {
        Add(i, "several-scales",
            fmt::format("FP8 tensor {} has two scales, {} and {}; expected one. It is not clear "
                        "which of them belongs to the weight: download the checkpoint again",
                        QuoteForMessage(tensor.name), QuoteForMessage(At(scale).name),
                        QuoteForMessage(At(found).name)));
        return;
      }
      scale = found;
      ++names_used_[static_cast<std::size_t>(naming)];
    }
    if (scale == Catalog::kNone) {
      without_scale_.push_back(i);
    } else {
      Pair(i, scale);
    }
  }

  void Pair(std::uint32_t weight_at, std::uint32_t scale_at) {
    const CatalogTensor& weight = At(weight_at);
    const CatalogTensor& scale = At(scale_at);
    if (weight.dtype != Dtype::kF8E4M3 && weight.dtype != Dtype::kF8E5M2) {
      const std::string_view dtype = formats::DtypeName(weight.dtype);
      ReportForm(weight_at, std::string(dtype),
                 fmt::format("tensor {} is {}, expected F8_E4M3 or F8_E5M2: it holds other FP8 "
                             "weights",
                             QuoteForMessage(weight.name), dtype));
      return;
    }
    const std::size_t dims = weight.shape.size();
    if (dims != 2 && dims != 3) {
      Add(weight_at, "wrong-weight-shape",
          fmt::format("FP8 tensor {} has shape {}, expected two dimensions, [rows, columns], or "
                      "the three of fused experts, [experts, rows, columns]",
                      QuoteForMessage(weight.name), formats::ShapeToString(weight.shape)));
      return;
    }
    if (HasForeignPart(weight_at, scale_at)) return;
    ScaledWeight pair;
    pair.weight = weight_at;
    pair.scale = scale_at;
    pair.format =
        weight.dtype == Dtype::kF8E4M3 ? quant::CodeFormat::kE4M3 : quant::CodeFormat::kE5M2;
    const auto scale_format = rules_.u8_is_e8m0 && scale.dtype == Dtype::kU8
                                  ? quant::ScaleFormat::kE8M0
                                  : ScaleFormatOf(scale.dtype);
    if (!scale_format) {
      Add(scale_at, "wrong-scale-dtype",
          fmt::format("scale {} is {}, expected F32, BF16, F16 or F8_E8M0{}",
                      QuoteForMessage(scale.name), formats::DtypeName(scale.dtype),
                      scale.dtype == Dtype::kU8
                          ? " (U8 holds E8M0 only where config.json's format is mxfp8-quantized)"
                          : ""));
      return;
    }
    pair.scale_format = *scale_format;
    pair.matrices = dims == 3 ? weight.shape[0] : 1;
    pair.rows = weight.shape[dims - 2];
    pair.cols = weight.shape[dims - 1];
    if (rules_.rules.empty()) return;
    std::string problem = ApplyScaleRules(rules_, weight, scale, pair);
    if (!problem.empty()) {
      if (rules_.only_by_absence) {
        needs_block_size_ = true;
      } else {
        Add(scale_at, "wrong-scale-shape", problem);
      }
      return;
    }
    if (pair.ScaleCols() > kMaxScaleColumns) {
      Add(scale_at, "too-many-scale-columns",
          fmt::format("scale {} has {} columns, expected at most {}; the {} cannot be right for a "
                      "weight of shape {}",
                      QuoteForMessage(scale.name), pair.ScaleCols(), kMaxScaleColumns,
                      rules_.rules.front().source, formats::ShapeToString(weight.shape)));
      return;
    }
    result_.pairs.push_back(pair);
  }

  // Whether beside an FP8 weight is what FP8 with scales has not; reports it.
  bool HasForeignPart(std::uint32_t weight_at, std::uint32_t scale_at) {
    const CatalogTensor& weight = At(weight_at);
    if (!has_other_parts_ || !weight.name.ends_with(kWeight)) return false;
    const std::string_view module =
        std::string_view(weight.name).substr(0, weight.name.size() - kWeight.size());
    const std::string_view own = std::string_view(At(scale_at).name).substr(module.size() + 1);
    const FormEvidence evidence(catalog_, config_, weight, module);
    const std::string_view foreign = FindForeignPart(evidence, std::span(&own, 1));
    if (foreign.empty()) return false;
    Add(weight_at, "several-forms",
        fmt::format("tensor {} holds FP8 weights with the scales {}, but {} belongs to another "
                    "form; it is not clear which of the two the codes are: take all tensors of the "
                    "weight from one checkpoint",
                    QuoteForMessage(weight.name), QuoteForMessage(At(scale_at).name),
                    QuoteForMessage(evidence.Name(foreign))));
    return true;
  }

  // Reports the faults that show only when all names were seen.
  void ReportUnpaired() {
    const auto most = std::max_element(names_used_.begin(), names_used_.end());
    const auto usual = *most == 0 && config_.modelopt
                           ? ScaleNaming::kWeightScale
                           : static_cast<ScaleNaming>(most - names_used_.begin());
    for (const std::uint32_t weight : without_scale_) {
      const std::string& name = At(weight).name;
      const ScaleNaming naming =
          usual == ScaleNaming::kScale && !name.ends_with(kWeight) ? ScaleNaming::kScaleInv : usual;
      Add(weight, "missing-scale",
          fmt::format("FP8 tensor {} has no scale: {} is in no shard; without it the weight means "
                      "nothing. The checkpoint is incomplete, download it again",
                      QuoteForMessage(name), QuoteForMessage(ScaleNameOf(name, naming))));
    }
    if (names_used_[static_cast<std::size_t>(ScaleNaming::kScale)] == 0) return;
    for (const std::uint32_t scale : doubtful_scales_) {
      JudgeScale(scale, ParseScaleName(At(scale).name)->weight);
    }
  }

  // msmodelslim's config does not say which codes have offsets: those of a form all do, or none.
  void ReportUnevenZeros() {
    if (config_.quantization) return;
    const auto form_of = [&](const ScaledWeight& weight) {
      return std::lower_bound(result_.formed.begin(), result_.formed.end(), weight.weight,
                              [](const auto& formed, std::uint32_t i) { return formed.weight < i; })
          ->form;
    };
    std::vector<std::uint32_t> examples(result_.forms.size(), Catalog::kNone);
    for (const ScaledWeight& weight : result_.readable) {
      if (weight.zeros != Catalog::kNone) examples[form_of(weight)] = weight.zeros;
    }
    for (const ScaledWeight& weight : result_.readable) {
      const std::uint32_t form = form_of(weight);
      if (weight.zeros != Catalog::kNone || examples[form] == Catalog::kNone) continue;
      const std::string& example = At(examples[form]).name;
      const std::string& codes = At(weight.weight).name;
      const std::string missing =
          codes.substr(0, codes.rfind('.')) + example.substr(example.rfind('.'));
      Add(weight.weight, "missing-companion",
          fmt::format(
              "tensor {} holds {} weights, but {} is in no shard, and other weights of this "
              "form have one ({}). The checkpoint is incomplete, download it again",
              QuoteForMessage(codes), result_.forms[form].name, QuoteForMessage(missing),
              QuoteForMessage(example)));
    }
  }

  std::uint64_t NamesUsed() const {
    return std::accumulate(names_used_.begin(), names_used_.end(), std::uint64_t{0});
  }

  void ReportRules() {
    std::string problem = rules_.problem;
    if (problem.empty() && needs_block_size_) problem = kNoBlockSize;
    if (!has_fp8_ || problem.empty()) return;
    // MXFP8 and ModelOpt's forms are read by their scales, so here scales are missing, not the
    // config.
    const bool by_scales = config_.quantization ? config_.quantization->quant_method == "mxfp8"
                                                : config_.modelopt.has_value();
    if (by_scales && NamesUsed() == 0) return;
    findings_.insert(findings_.begin(), {0, Finding{Severity::kError, "no-quantization-config",
                                                    "config.json", "", std::move(problem)}});
  }

  void ReportForm(std::uint32_t weight, const std::string& form) {
    ReportForm(weight, form, DescribeOtherForm(config_, At(weight), form));
  }

  void ReportForm(std::uint32_t weight, const std::string& form, const std::string& message) {
    result_.unsupported.push_back(Make(weight, "unsupported-weight-format", message));
    result_.formed.push_back({weight, CountForm(form, false, result_.forms), {}});
  }

  const Catalog& catalog_;
  const ModelConfig& config_;
  const ScaleRules rules_;
  const bool has_other_parts_;
  ScaledWeights result_;
  std::vector<std::pair<std::uint32_t, Finding>> findings_;  // with the tensor's position
  std::vector<std::uint32_t> without_scale_;
  std::vector<std::uint32_t> doubtful_scales_;
  std::array<std::uint64_t, kScaleNamings.size()> names_used_ = {};  // by ScaleNaming
  bool has_fp8_ = false;
  bool needs_block_size_ = false;
};

}  // namespace

bool IsFp8(Dtype dtype) {
  return dtype == Dtype::kF8E4M3 || dtype == Dtype::kF8E5M2 || dtype == Dtype::kF8E4M3Fnuz ||
         dtype == Dtype::kF8E5M2Fnuz;
}

std::uint64_t ScaledWeight::ScaleRows() const {
  return rows / block.rows + (rows % block.rows != 0);
}

std::uint64_t ScaledWeight::ScaleCols() const {
  return cols / block.cols + (cols % block.cols != 0);
}

formats::Shape ShapeOfValues(const CatalogTensor& tensor, const ScaledWeight* pair) {
  if (pair == nullptr || quant::CodeBits(pair->format) == 8) return tensor.shape;
  return {pair->rows, pair->cols};
}

ScaleMap::ScaleMap(std::span<const ScaledWeight> pairs, std::size_t tensors)
    : pairs_(pairs), by_weight_(tensors, kNoPair), by_scale_(tensors, kNoPair) {
  for (std::uint32_t i = 0; i < pairs.size(); ++i) {
    by_weight_[pairs[i].weight] = i;
    by_scale_[pairs[i].scale] = i;
    if (pairs[i].tensor_scale != Catalog::kNone) by_scale_[pairs[i].tensor_scale] = i;
  }
}

std::optional<quant::ScaleFormat> ScaleFormatOf(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return quant::ScaleFormat::kF32;
    case Dtype::kBF16:
      return quant::ScaleFormat::kBF16;
    case Dtype::kF16:
      return quant::ScaleFormat::kF16;
    case Dtype::kF8E8M0:
      return quant::ScaleFormat::kE8M0;
    default:
      return std::nullopt;
  }
}

ScaledWeights FindScaledWeights(const Catalog& catalog, const ModelConfig& config) {
  return Finder(catalog, config).Run();
}

}  // namespace dsv3::convert
