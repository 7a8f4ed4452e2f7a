#include "convert/verify/numeric_measure.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <mutex>
#include <numeric>
#include <span>
#include <utility>

#include "convert/stream/scan.h"
#include "convert/verify/value_reader.h"
#include "formats/hash/xxh3.h"
#include "quant/statistics.h"

namespace dsv3::convert {
namespace {

// Small enough for pieces of the smallest memory, large enough for few sums.
constexpr std::uint64_t kMinPanelElements = std::uint64_t{128} << 10;
constexpr std::uint64_t kMaxPanels = std::uint64_t{1} << 20;
static_assert(kMinPanelElements % kValueChunk == 0);

bool IsBadScale(float scale) { return !std::isfinite(scale) || scale <= 0; }

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
  sum.bad_scales += next.bad_scales;
  sum.first_nan = std::min(sum.first_nan, next.first_nan);
  sum.first_infinity = std::min(sum.first_infinity, next.first_infinity);
  if (next.first_bad_scale < sum.first_bad_scale) {
    sum.first_bad_scale = next.first_bad_scale;
    sum.first_bad_scale_value = next.first_bad_scale_value;
  }
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
  tensor.sums = {};
  tensor.digests = {};
  tensor.blocks = {};
}

class Measurer {
 public:
  Measurer(const ValueCheckpoint& checkpoint, const std::vector<MeasureWish>& wishes)
      : catalog_(checkpoint.model.catalog),
        wishes_(wishes),
        scales_(checkpoint.scaled.pairs, catalog_.tensors().size()),
        readers_(catalog_.tensors().size()),
        gathered_(catalog_.tensors().size()) {
    for (std::uint32_t i = 0; i < readers_.size(); ++i) {
      readers_[i] = ValueReader(catalog_, i, scales_.OfWeight(i));
      gathered_[i].bytes_left = catalog_.tensors()[i].extent.length;
    }
  }

  std::uint64_t Cut(std::uint32_t tensor, std::uint64_t position) const {
    const ValueReader& reader = readers_[tensor];
    const std::uint64_t panel = PanelElements(reader.elements());
    return reader.BytesTo(reader.ElementAt(position) / panel * panel);
  }

  std::optional<SourceRange> Side(std::uint32_t tensor, std::uint64_t begin,
                                  std::uint64_t end) const {
    const ValueReader& reader = readers_[tensor];
    return reader.ScaleRange(reader.ElementAt(begin), reader.ElementAt(end));
  }

  void Visit(const ScanPiece& piece) {
    const ValueReader& reader = readers_[piece.tensor];
    std::vector<PanelResult> panels;
    ZeroBlocks blocks;
    if (reader.form() != ValueForm::kNone) {
      const std::uint64_t begin = reader.ElementAt(piece.begin);
      const std::uint64_t end = reader.ElementAt(piece.begin + piece.bytes.size());
      ValueReader::Scales scales;
      reader.DecodeScales(begin, end, piece.side, scales);
      const std::uint64_t size = PanelElements(reader.elements());
      for (std::uint64_t first = begin; first < end; first += size) {
        const std::uint64_t last = std::min(end, first + size);
        const auto bytes = piece.bytes.subspan(reader.BytesTo(first) - piece.begin,
                                               reader.BytesTo(last) - reader.BytesTo(first));
        panels.push_back(MeasurePanel(piece.tensor, first, bytes, scales));
      }
      if (reader.scaled()) {
        blocks = ZeroBlocks(scales.first, scales.values.size());
        blocks.Add(reader, begin, piece.bytes, scales);
      }
    }
    Gathered& tensor = gathered_[piece.tensor];
    const std::lock_guard lock(mutexes_[piece.tensor % mutexes_.size()]);
    for (PanelResult& panel : panels) Merge(panel, tensor);
    if (!blocks.empty()) {
      if (tensor.blocks.empty()) tensor.blocks = ZeroBlocks(0, reader.num_scales());
      tensor.blocks.Add(blocks);
    }
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
  PanelResult MeasurePanel(std::uint32_t tensor, std::uint64_t begin,
                           std::span<const std::byte> bytes,
                           const ValueReader::Scales& scales) const {
    const ValueReader& reader = readers_[tensor];
    PanelResult panel;
    panel.begin = begin;
    if (wishes_[tensor].histogram) panel.measurement.histogram.emplace();
    if (wishes_[tensor].digests) panel.digest = formats::Xxh3Hex(bytes);
    const std::size_t chunk_bytes = reader.BytesTo(kValueChunk);
    bool first = true;
    for (std::size_t done = 0; done < bytes.size(); done += chunk_bytes) {
      const auto chunk = bytes.subspan(done, std::min(chunk_bytes, bytes.size() - done));
      const std::uint64_t element = begin + reader.ElementAt(done);
      const auto size = static_cast<std::size_t>(reader.ElementAt(chunk.size()));
      if (reader.form() == ValueForm::kDouble) {
        MeasureDoubles(reader, element, chunk, size, first, panel);
      } else {
        MeasureFloatChunk(tensor, element, chunk, size, scales, first, panel);
      }
      first = false;
    }
    return panel;
  }

  void MeasureFloatChunk(std::uint32_t tensor, std::uint64_t element,
                         std::span<const std::byte> chunk, std::size_t size,
                         const ValueReader::Scales& scales, bool first, PanelResult& panel) const {
    alignas(64) std::array<float, kValueChunk> buffer;
    const std::span<float> values = std::span(buffer).first(size);
    const ValueReader& reader = readers_[tensor];
    const ScaledWeight* const pair = scales_.OfScale(tensor);
    if (pair != nullptr) {
      std::vector<float> decoded;
      quant::DecodeScales(pair->scale_format, chunk, decoded);
      std::copy(decoded.begin(), decoded.end(), values.begin());
      JudgeScales(element, values, panel.measurement);
    } else {
      reader.Floats(element, chunk, scales, values.data());
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
    if (pair == nullptr && found.nans + found.infinities != 0) {
      CountNonfinite(reader, element, chunk, values, scales, sum);
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
    if (reader.scaled()) {
      reader.StoredFloats(chunk, stored.data());
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

  static void JudgeScales(std::uint64_t element, std::span<const float> scales, Measurement& sum) {
    sum.significands.Add(scales);
    for (std::size_t i = 0; i < scales.size(); ++i) {
      if (!IsBadScale(scales[i])) continue;
      if (sum.bad_scales++ == 0) {
        sum.first_bad_scale = element + i;
        sum.first_bad_scale_value = scales[i];
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
  std::vector<ValueReader> readers_;
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
  ScanOptions options;
  options.threads = threads;
  options.memory_bytes = memory_bytes;
  options.phase = "reading values";
  options.side = [&](std::uint32_t tensor, std::uint64_t begin, std::uint64_t end) {
    return measurer.Side(tensor, begin, end);
  };
  ScanTensors(
      checkpoint.model.catalog, all, sources, options,
      [&](std::uint32_t tensor, std::uint64_t position) { return measurer.Cut(tensor, position); },
      [&](const ScanPiece& piece) { measurer.Visit(piece); }, progress, stop);
  return measurer.Take();
}

}  // namespace dsv3::convert
