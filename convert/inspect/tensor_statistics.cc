#include "convert/inspect/tensor_statistics.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "convert/inspect/value_counter.h"
#include "convert/model/quantized_form.h"
#include "convert/model/scale_names.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/dequantize_expression.h"
#include "convert/stream/source_files.h"
#include "formats/io/aligned_buffer.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

// A whole number of elements of every dtype.
constexpr std::uint64_t kPieceBytes = 3 << 20;
// Scales that are held for one piece; more than any model needs.
constexpr std::uint64_t kMaxPieceScales = 1 << 24;

// Reads ranges of tensors one after the other.
class Reader {
 public:
  explicit Reader(const OpenedModel& model) : sources_(model.catalog, TensorsOf(model).derived) {}

  // Valid until the next call.
  const std::vector<std::span<const std::byte>>& Read(std::span<const SourceRange> ranges) {
    sources_.Read(ranges, buffer_, inputs_);
    return inputs_;
  }

 private:
  SourceFiles sources_;
  formats::AlignedBuffer buffer_;
  std::vector<std::span<const std::byte>> inputs_;
};

ValueStatistics MeasureStored(Reader& reader, const CatalogTensor& tensor, std::uint32_t position) {
  ValueCounter counter(tensor.dtype);
  for (std::uint64_t begin = 0; begin < tensor.extent.length; begin += kPieceBytes) {
    const SourceRange range = {position, begin,
                               std::min(begin + kPieceBytes, tensor.extent.length)};
    counter.Add(reader.Read(std::span(&range, 1))[0]);
  }
  return counter.Finish();
}

// The scale tensor beside a weight, under the names that checkpoints use.
std::uint32_t FindScale(const Catalog& catalog, const std::string& weight) {
  for (const std::string& name : ScaleNamesOf(weight)) {
    const std::uint32_t found = catalog.Find(name);
    if (found != Catalog::kNone) return found;
  }
  return Catalog::kNone;
}

// Why the scale cannot be applied.
std::string WhyNotDequantized(const CatalogTensor& weight, const CatalogTensor& scale,
                              const ModelConfig* config, const ScaledWeights& found) {
  if (config == nullptr || !config->quantization) {
    return fmt::format(
        "There is no quantization_config and no weight_block_size, so '{}' was not applied.",
        scale.name);
  }
  for (const formats::Finding& finding : found.findings) {
    if (finding.tensor == weight.name || finding.tensor == scale.name || finding.tensor.empty()) {
      return fmt::format("'{}' was not applied: {}.", scale.name, finding.message);
    }
  }
  return fmt::format("'{}' was not applied.", scale.name);
}

ValueStatistics MeasureDequantized(Reader& reader, const Catalog& catalog,
                                   const ScaledWeight& pair) {
  ValueCounter counter(Dtype::kBF16);
  const CatalogTensor& weight = catalog.tensors()[pair.weight];
  if (weight.extent.length == 0) return counter.Finish();
  const ExpressionPtr expression = Dequantize(catalog, pair);
  // Short enough that the rows of scales that it meets fit, whatever the shape of the blocks.
  const std::uint64_t rows = std::max<std::uint64_t>(1, kMaxPieceScales / pair.ScaleCols() - 1);
  const std::uint64_t step = 2 * (rows > kPieceBytes / pair.cols ? kPieceBytes : rows * pair.cols);

  std::vector<SourceRange> reads;
  std::vector<std::uint16_t> values;
  for (std::uint64_t begin = 0; begin < expression->num_bytes(); begin += step) {
    const std::uint64_t end = std::min(begin + step, expression->num_bytes());
    reads.clear();
    expression->AppendReads(begin, end, reads);
    const std::vector<std::span<const std::byte>>& inputs = reader.Read(reads);
    values.resize(inputs[0].size());
    EvaluationOutput out;
    out.value = std::as_writable_bytes(std::span(values));
    expression->Evaluate(begin, end, inputs, out);
    counter.Add(std::as_bytes(std::span(values)));
  }
  return counter.Finish();
}

// A weight in a form that conversions do not read.
void MeasureForm(Reader& reader, const Catalog& catalog, const ModelConfig& config,
                 std::uint32_t position, const QuantizedForm& form, TensorStatistics& statistics) {
  if (catalog.Find(form.scale) != Catalog::kNone) statistics.scale = form.scale;
  const ScaledWeights found = FindScaledWeights(catalog, config);
  const auto pair = std::find_if(found.readable.begin(), found.readable.end(),
                                 [&](const ScaledWeight& p) { return p.weight == position; });
  if (pair != found.readable.end()) {
    statistics.dequantized = MeasureDequantized(reader, catalog, *pair);
  } else {
    statistics.note = fmt::format(
        "It holds codes of {} weights, which are not decoded; the values are those of the codes.",
        form.name);
  }
}

}  // namespace

TensorStatistics MeasureTensor(const OpenedModel& model, std::uint32_t position,
                               const ModelConfig* config) {
  const Catalog& catalog = model.catalog;
  const CatalogTensor& tensor = catalog.tensors().at(position);
  TensorStatistics statistics;
  if (!ValueCounter::Supports(tensor.dtype)) {
    statistics.note = "Values of 6-bit types are not decoded.";
    return statistics;
  }
  Reader reader(model);
  statistics.stored = MeasureStored(reader, tensor, position);
  const ModelConfig known = config == nullptr ? ModelConfig() : *config;
  if (const auto form = RecogniseForm(catalog, known, position)) {
    MeasureForm(reader, catalog, known, position, *form, statistics);
    return statistics;
  }
  if (tensor.dtype != Dtype::kF8E4M3 && tensor.dtype != Dtype::kF8E5M2) return statistics;
  const std::uint32_t scale_position = FindScale(catalog, tensor.name);
  if (scale_position == Catalog::kNone) {
    statistics.note = "No scale tensor is beside it, so there is no dequantised view.";
    return statistics;
  }
  const CatalogTensor& scale = catalog.tensors()[scale_position];
  statistics.scale = scale.name;
  const ScaledWeights found = FindScaledWeights(catalog, known);
  const ScaleMap scales(found.pairs, catalog.tensors().size());
  if (const ScaledWeight* const pair = scales.OfWeight(position)) {
    statistics.dequantized = MeasureDequantized(reader, catalog, *pair);
  } else {
    statistics.note = WhyNotDequantized(tensor, scale, config, found);
  }
  return statistics;
}

}  // namespace dsv3::convert
