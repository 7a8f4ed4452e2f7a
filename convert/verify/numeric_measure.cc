#include "convert/verify/numeric_measure.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <mutex>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "convert/model/zero_weights.h"
#include "convert/stream/value_scan.h"
#include "formats/hash/xxh3.h"
#include "quant/statistics.h"

namespace dsv3::convert {
namespace {

// Small enough for pieces of the smallest memory, large enough for few sums.
constexpr std::uint64_t kMinPanelElements = std::uint64_t{128} << 10;
constexpr std::uint64_t kMaxPanels = std::uint64_t{1} << 20;
static_assert(kMinPanelElements % kValueChunk == 0);

// What one panel adds to its tensor.
struct PanelResult {
  std::uint64_t begin = 0;  // element
  Measurement measurement;  // rms: unused
  long double sum_squares = 0;
  std::string digest;
};

void CountMagnitude(double value, MagnitudeHistogram& histogram) {
  if (value == 0) {
    ++histogram.zeros;
  } else if (std::isfinite(value)) {
    ++histogram.bins[std::ilogb(value)];
  }
}

// A tensor while its panels come in.
struct Gathered {
  Measurement measurement;
  std::uint64_t bytes_left = 0;
  std::vector<std::pair<std::uint64_t, long double>> sums;  // by the panels' first elements
  std::vector<std::pair<std::uint64_t, std::string>> digests;
  ZeroBlocks blocks;
  ZeroRuns runs;
};

void Merge(PanelResult& panel, Gathered& tensor) {
  Measurement& sum = tensor.measurement;
  Measurement& next = panel.measurement;
  const bool same = sum.values == 0 || std::bit_cast<std::uint64_t>(sum.first) ==
                                           std::bit_cast<std::uint64_t>(next.first);
  sum.constant = sum.constant && next.constant && same;
  sum.first = next.first;
  sum.values += next.values;
  sum.finite += next.finite;
  sum.nans += next.nans;
  sum.infinities += next.infinities;
  sum.bad_scales.Add(next.bad_scales);
  sum.first_nan = std::min(sum.first_nan, next.first_nan);
  sum.first_infinity = std::min(sum.first_infinity, next.first_infinity);
  sum.absmax = std::max(sum.absmax, next.absmax);
  sum.significands.Add(next.significands);
  if (next.histogram) {
    if (!sum.histogram) sum.histogram.emplace();
    sum.histogram->zeros += next.histogram->zeros;
    for (const auto& [bin, count] : next.histogram->bins) sum.histogram->bins[bin] += count;
  }
  tensor.sums.emplace_back(panel.begin, panel.sum_squares);
  if (!panel.digest.empty()) tensor.digests.emplace_back(panel.begin, std::move(panel.digest));
}

// All panels are there: adds them up in their order.
void Finish(Gathered& tensor) {
  Measurement& result = tensor.measurement;
  std::sort(tensor.sums.begin(), tensor.sums.end());
  long double sum = 0;
  for (const auto& [begin, part] : tensor.sums) sum += part;
  if (result.finite != 0) {
    result.rms = static_cast<double>(std::sqrt(sum / static_cast<long double>(result.finite)));
  }
  std::sort(tensor.digests.begin(), tensor.digests.end());
  for (auto& [begin, digest] : tensor.digests) result.digests.push_back(std::move(digest));
  result.zero_blocks = tensor.blocks.Count();
  result.zero_runs = tensor.runs.Find();
  tensor.sums = {};
  tensor.digests = {};
  tensor.blocks = {};
  tensor.runs = {};
}

class Measurer {
 public:
  Measurer(const ValueCheckpoint& checkpoint, const std::vector<MeasureWish>& wishes)
      : catalog_(checkpoint.model.catalog),
        wishes_(wishes),
        scales_(checkpoint.scaled.pairs, catalog_.tensors().size()),
        gathered_(catalog_.tensors().size()) {
    for (std::size_t i = 0; i < gathered_.size(); ++i) {
      gathered_[i].bytes_left = catalog_.tensors()[i].extent.length;
    }
  }

  const ScaleMap& scales() const { return scales_; }

  void Visit(const ValuePiece& piece) {
    const ValueReader& reader = piece.reader;
    std::vector<PanelResult> panels;
    ZeroBlocks blocks;
    ZeroRuns runs;
    CodesOutOfRange codes;
    const ScaledWeight* const pair = scales_.OfWeight(piece.tensor);
    if (pair != nullptr && pair->range) {
      codes.Add(pair->format, *pair->range, piece.begin, piece.bytes);
    }
    if (wishes_[piece.tensor].zero_runs) {
      runs = ZeroRuns(LeastZeroRun(catalog_.tensors()[piece.tensor].dtype));
      runs.Add(piece.first_byte, piece.bytes);
    }
    if (reader.form() != ValueForm::kNone) {
      const std::uint64_t size = PanelElements(reader.elements());
      for (std::uint64_t first = piece.begin; first < piece.end; first += size) {
        panels.push_back(MeasurePanel(piece, first, std::min(piece.end, first + size)));
      }
      if (reader.scaled_fp8()) {
        blocks = ZeroBlocks(piece.scales.first, piece.scales.values.size());
        blocks.Add(*scales_.OfWeight(piece.tensor), piece.begin, piece.bytes,
                   {piece.scales.first, piece.scales.values});
      }
    }
    const std::uint64_t vanished = CountVanished(piece);
    Gathered& tensor = gathered_[piece.tensor];
    const std::lock_guard lock(mutexes_[piece.tensor % mutexes_.size()]);
    for (PanelResult& panel : panels) Merge(panel, tensor);
    tensor.measurement.codes.Add(codes);
    tensor.measurement.vanished += vanished;
    if (!blocks.empty()) {
      if (tensor.blocks.empty()) tensor.blocks = ZeroBlocks(0, reader.num_scales());
      tensor.blocks.Add(blocks);
    }
    tensor.runs.Add(runs);
    tensor.bytes_left -= piece.bytes.size();
    if (tensor.bytes_left == 0) Finish(tensor);
  }

  std::vector<Measurement> Take() {
    std::vector<Measurement> result;
    result.reserve(gathered_.size());
    for (Gathered& tensor : gathered_) result.push_back(std::move(tensor.measurement));
    return result;
  }

 private:
  PanelResult MeasurePanel(const ValuePiece& piece, std::uint64_t begin, std::uint64_t end) const {
    const ValueReader& reader = piece.reader;
    const auto bytes = piece.bytes.subspan(reader.BytesTo(begin) - piece.first_byte,
                                           reader.BytesTo(end) - reader.BytesTo(begin));
    PanelResult panel;
    panel.begin = begin;
    if (wishes_[piece.tensor].histogram) panel.measurement.histogram.emplace();
    if (wishes_[piece.tensor].digests) panel.digest = formats::Xxh3Hex(bytes);
    const bool is_scale = scales_.OfScale(piece.tensor) != nullptr;
    const std::size_t chunk_bytes = reader.BytesTo(kValueChunk);
    bool first = true;
    for (std::size_t done = 0; done < bytes.size(); done += chunk_bytes) {
      const auto chunk = bytes.subspan(done, std::min(chunk_bytes, bytes.size() - done));
      const std::uint64_t element = begin + reader.ElementAt(done);
      const auto size = static_cast<std::size_t>(reader.ElementAt(chunk.size()));
      if (reader.form() == ValueForm::kDouble) {
        MeasureDoubles(reader, element, chunk, size, first, panel);
      } else {
        MeasureFloatChunk(piece, is_scale, element, chunk, size, first, panel);
      }
      first = false;
    }
    return panel;
  }

  // Values that are nearly zero by their scale alone.
  static std::uint64_t CountVanished(const ValuePiece& piece) {
    const std::vector<float>& scales = piece.scales.values;
    if (!piece.reader.scaled() ||
        std::find(scales.begin(), scales.end(), kLeastE8M0) == scales.end()) {
      return 0;
    }
    std::uint64_t vanished = 0;
    std::array<float, kValueChunk> buffer;
    const std::size_t chunk_bytes = piece.reader.BytesTo(kValueChunk);
    for (std::size_t done = 0; done < piece.bytes.size(); done += chunk_bytes) {
      const auto chunk =
          piece.bytes.subspan(done, std::min(chunk_bytes, piece.bytes.size() - done));
      const std::uint64_t element = piece.begin + piece.reader.ElementAt(done);
      const auto values =
          std::span(buffer).first(static_cast<std::size_t>(piece.reader.ElementAt(chunk.size())));
      piece.reader.Floats(element, chunk, piece.scales, values.data());
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (values[i] != 0 && piece.reader.ScaleOf(element + i, piece.scales) == kLeastE8M0) {
          ++vanished;
        }
      }
    }
    return vanished;
  }

  static void MeasureFloatChunk(const ValuePiece& piece, bool is_scale, std::uint64_t element,
                                std::span<const std::byte> chunk, std::size_t size, bool first,
                                PanelResult& panel) {
    alignas(64) std::array<float, kValueChunk> buffer;
    const std::span<float> values = std::span(buffer).first(size);
    piece.reader.Floats(element, chunk, piece.scales, values.data());
    if (is_scale) {
      panel.measurement.significands.Add(values);
      panel.measurement.bad_scales.Add(element, values);
    }
    const quant::FloatStatistics found = quant::MeasureFloats(values);
    Measurement& sum = panel.measurement;
    const bool same = first || std::bit_cast<std::uint64_t>(sum.first) ==
                                   std::bit_cast<std::uint64_t>(double{found.first});
    sum.constant = sum.constant && found.constant && same;
    sum.first = double{found.first};
    sum.values += found.values;
    sum.finite += found.values - found.nans - found.infinities;
    sum.absmax = std::max(sum.absmax, double{found.absmax});
    panel.sum_squares += static_cast<long double>(found.sum_squares);
    if (!is_scale && found.nans + found.infinities != 0) {
      CountNonfinite(piece.reader, element, chunk, values, piece.scales, sum);
    }
    if (sum.histogram) {
      for (const float value : values) CountMagnitude(double{value}, *sum.histogram);
    }
  }

  // NaN codes count, and products that are infinite with a finite scale; what a bad scale does to
  // its block is the scale's fault.
  static void CountNonfinite(const ValueReader& reader, std::uint64_t element,
                             std::span<const std::byte> chunk, std::span<const float> values,
                             const ValueReader::Scales& scales, Measurement& sum) {
    std::array<float, kValueChunk> stored;
    if (reader.scaled_fp8()) {
      reader.StoredFloats(chunk, stored.data());
    } else if (reader.scaled()) {
      stored = {};  // integers and E2M1 are finite
    } else {
      std::copy(values.begin(), values.end(), stored.begin());
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      const bool bad_scale = reader.scaled() && !std::isfinite(reader.ScaleOf(element + i, scales));
      if (std::isnan(stored[i])) {
        ++sum.nans;
        sum.first_nan = std::min(sum.first_nan, element + i);
      } else if (std::isinf(stored[i]) || (std::isinf(values[i]) && !bad_scale)) {
        ++sum.infinities;
        sum.first_infinity = std::min(sum.first_infinity, element + i);
      }
    }
  }

  static void MeasureDoubles(const ValueReader& reader, std::uint64_t element,
                             std::span<const std::byte> chunk, std::size_t size, bool first,
                             PanelResult& panel) {
    std::array<double, kValueChunk> buffer;
    reader.Doubles(chunk, buffer.data());
    Measurement& sum = panel.measurement;
    if (first) sum.first = buffer[0];
    for (std::size_t i = 0; i < size; ++i) {
      const double value = buffer[i];
      sum.constant = sum.constant &&
                     std::bit_cast<std::uint64_t>(value) == std::bit_cast<std::uint64_t>(sum.first);
      ++sum.values;
      if (sum.histogram) CountMagnitude(value, *sum.histogram);
      if (std::isnan(value)) {
        ++sum.nans;
        sum.first_nan = std::min(sum.first_nan, element + i);
      } else if (std::isinf(value)) {
        ++sum.infinities;
        sum.first_infinity = std::min(sum.first_infinity, element + i);
      } else {
        ++sum.finite;
        sum.absmax = std::max(sum.absmax, std::abs(value));
        panel.sum_squares += static_cast<long double>(value) * static_cast<long double>(value);
      }
    }
  }

  const Catalog& catalog_;
  const std::vector<MeasureWish>& wishes_;
  const ScaleMap scales_;
  std::vector<Gathered> gathered_;  // each guarded by the mutex of its position
  std::array<std::mutex, 64> mutexes_;
};

}  // namespace

std::uint64_t PanelElements(std::uint64_t elements) {
  return std::max(kMinPanelElements, std::bit_ceil(elements / kMaxPanels));
}

std::vector<Measurement> MeasureAll(const ValueCheckpoint& checkpoint,
                                    const std::vector<MeasureWish>& wishes, unsigned threads,
                                    std::uint64_t memory_bytes, SourceFiles& sources,
                                    ProgressSink& progress, const StopToken& stop) {
  std::vector<std::uint32_t> all(checkpoint.model.catalog.tensors().size());
  std::iota(all.begin(), all.end(), 0U);
  Measurer measurer(checkpoint, wishes);
  ValueScanOptions options;
  options.threads = threads;
  options.memory_bytes = memory_bytes;
  options.phase = "reading values";
  // At whole panels.
  const auto cut = [](const ValueReader& reader, std::uint64_t element) {
    const std::uint64_t panel = PanelElements(reader.elements());
    return element / panel * panel;
  };
  ScanValues(
      checkpoint.model.catalog, all, measurer.scales(), sources, options, cut,
      [&](const ValuePiece& piece) { measurer.Visit(piece); }, progress, stop);
  return measurer.Take();
}

}  // namespace dsv3::convert
