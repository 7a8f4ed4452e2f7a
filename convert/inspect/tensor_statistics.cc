#include "convert/inspect/tensor_statistics.h"

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "convert/inspect/value_counter.h"
#include "convert/model/quantized_form.h"
#include "convert/model/scale_names.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/gguf_model.h"
#include "convert/plan/gguf_decode_expression.h"
#include "convert/plan/row_tensors.h"
#include "convert/stream/executor.h"
#include "convert/stream/source_files.h"
#include "convert/stream/value_checks.h"
#include "convert/stream/value_scan.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

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

// Reads the tensor, and of an FP8 weight in `pairs` its scales, once.
void Measure(const OpenedModel& model, std::uint32_t position, std::span<const ScaledWeight> pairs,
             TensorStatistics& statistics) {
  const Catalog& catalog = model.catalog;
  const ScaleMap scales(pairs, catalog.tensors().size());
  ValueCounter stored(catalog.tensors()[position].dtype);
  ValueCounter dequantized(Dtype::kBF16);
  std::vector<std::uint16_t> values;
  const auto visit = [&](const ValuePiece& piece) {
    stored.Add(piece.bytes);
    if (!piece.reader.scaled()) return;
    values.resize(static_cast<std::size_t>(piece.end - piece.begin));
    piece.reader.RoundedToBF16(piece.begin, piece.bytes, piece.scales, values.data());
    dequantized.Add(std::as_bytes(std::span(values)));
  };
  const RowTensors rows(catalog, pairs, TensorsOf(model).derived);
  SourceFiles sources(catalog, rows.derived());
  ValueScanOptions options;
  options.memory_bytes = kMinMemoryBytes;
  options.in_order = true;  // sums are formed in the order of the elements
  ProgressSink progress;
  const StopToken stop;
  CheckValues(TensorsOf(model).derived, std::vector<std::uint32_t>{position}, 1, progress, stop);
  ScanValues(catalog, std::span(&position, 1), scales, sources, options, {}, visit, progress, stop);
  statistics.stored = stored.Finish();
  if (scales.OfWeight(position) != nullptr) statistics.dequantized = dequantized.Finish();
}

}  // namespace

TensorStatistics MeasureTensor(const OpenedModel& model, std::uint32_t position,
                               const ModelConfig* config) {
  const Catalog& catalog = model.catalog;
  const CatalogTensor& tensor = catalog.tensors().at(position);
  TensorStatistics statistics;
  if (model.gguf && !IsDecodedGguf(model.gguf->held[position].type)) {
    statistics.note = fmt::format("Values of type {} are not decoded.",
                                  formats::GgufTypeInfoOf(model.gguf->held[position].type).name);
    return statistics;
  }
  if (!ValueCounter::Supports(tensor.dtype)) {
    statistics.note = "Values of 6-bit types are not decoded.";
    return statistics;
  }
  const ModelConfig known = config == nullptr ? ModelConfig() : *config;
  const std::optional<QuantizedForm> form = RecogniseForm(catalog, known, position);
  if (!form && tensor.dtype != Dtype::kF8E4M3 && tensor.dtype != Dtype::kF8E5M2) {
    Measure(model, position, {}, statistics);
    return statistics;
  }
  const ScaledWeights found = FindScaledWeights(catalog, known);
  Measure(model, position, form ? found.readable : found.pairs, statistics);
  if (form) {
    if (catalog.Find(form->scale) != Catalog::kNone) statistics.scale = form->scale;
    if (!statistics.dequantized) {
      statistics.note = fmt::format(
          "It holds codes of {} weights, which are not decoded; the values are those of the codes.",
          form->name);
    }
    return statistics;
  }
  const std::uint32_t scale_position = FindScale(catalog, tensor.name);
  if (scale_position == Catalog::kNone) {
    statistics.note = "No scale tensor is beside it, so there is no dequantised view.";
    return statistics;
  }
  const CatalogTensor& scale = catalog.tensors()[scale_position];
  statistics.scale = scale.name;
  if (!statistics.dequantized) statistics.note = WhyNotDequantized(tensor, scale, config, found);
  return statistics;
}

}  // namespace dsv3::convert
