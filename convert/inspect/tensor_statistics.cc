#include "convert/inspect/tensor_statistics.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "convert/inspect/value_counter.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/dequantize_expression.h"
#include "formats/io/input_file.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

// A whole number of elements of every dtype.
constexpr std::uint64_t kPieceBytes = 3 << 20;
// Scales that are held for one piece; more than any model needs.
constexpr std::uint64_t kMaxPieceScales = 1 << 24;

formats::InputFile OpenFileOf(const Catalog& catalog, const CatalogTensor& tensor) {
  const SourceFile& file = catalog.files()[tensor.extent.file];
  return formats::InputFile(file.path, file.name);
}

ValueStatistics MeasureStored(const Catalog& catalog, const CatalogTensor& tensor) {
  ValueCounter counter(tensor.dtype);
  const formats::InputFile file = OpenFileOf(catalog, tensor);
  std::vector<std::byte> buffer(std::min(kPieceBytes, tensor.extent.length));
  for (std::uint64_t done = 0; done < tensor.extent.length; done += buffer.size()) {
    const std::span<std::byte> piece = std::span(buffer).first(
        std::min<std::uint64_t>(buffer.size(), tensor.extent.length - done));
    file.ReadAt(tensor.extent.offset + done, piece);
    counter.Add(piece);
  }
  return counter.Finish();
}

// The scale tensor beside a weight, under the names that checkpoints use.
std::uint32_t FindScale(const Catalog& catalog, const std::string& weight) {
  for (const std::string_view suffix : {"_scale_inv", "_scale"}) {
    const std::uint32_t found = catalog.Find(weight + std::string(suffix));
    if (found != Catalog::kNone) return found;
  }
  constexpr std::string_view kWeight = ".weight";
  if (!weight.ends_with(kWeight)) return Catalog::kNone;
  return catalog.Find(weight.substr(0, weight.size() - kWeight.size()) + ".scale");
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

ValueStatistics MeasureDequantized(const Catalog& catalog, const ScaledWeight& pair) {
  ValueCounter counter(Dtype::kBF16);
  const CatalogTensor& weight = catalog.tensors()[pair.weight];
  const CatalogTensor& scale = catalog.tensors()[pair.scale];
  if (weight.extent.length == 0) return counter.Finish();
  const ExpressionPtr expression = Dequantize(catalog, pair);
  const formats::InputFile weight_file = OpenFileOf(catalog, weight);
  const formats::InputFile scale_file = OpenFileOf(catalog, scale);
  // Short enough that the rows of scales that it meets fit, whatever the shape of the blocks.
  const std::uint64_t rows = std::max<std::uint64_t>(1, kMaxPieceScales / pair.ScaleCols() - 1);
  const std::uint64_t step = 2 * (rows > kPieceBytes / pair.cols ? kPieceBytes : rows * pair.cols);

  std::vector<SourceRange> reads;
  std::vector<std::byte> codes;
  std::vector<std::byte> scales;
  std::vector<std::uint16_t> values;
  for (std::uint64_t begin = 0; begin < expression->num_bytes(); begin += step) {
    const std::uint64_t end = std::min(begin + step, expression->num_bytes());
    reads.clear();
    expression->AppendReads(begin, end, reads);
    codes.resize(reads[0].end - reads[0].begin);
    scales.resize(reads[1].end - reads[1].begin);
    weight_file.ReadAt(weight.extent.offset + reads[0].begin, codes);
    scale_file.ReadAt(scale.extent.offset + reads[1].begin, scales);
    values.resize(codes.size());
    const std::span<const std::byte> inputs[] = {codes, scales};
    EvaluationOutput out;
    out.value = std::as_writable_bytes(std::span(values));
    expression->Evaluate(begin, end, inputs, out);
    counter.Add(std::as_bytes(std::span(values)));
  }
  return counter.Finish();
}

}  // namespace

TensorStatistics MeasureTensor(const Catalog& catalog, std::uint32_t position,
                               const ModelConfig* config) {
  const CatalogTensor& tensor = catalog.tensors().at(position);
  TensorStatistics statistics;
  if (!ValueCounter::Supports(tensor.dtype)) {
    statistics.note = "Values of 6-bit types are not decoded.";
    return statistics;
  }
  statistics.stored = MeasureStored(catalog, tensor);
  if (tensor.dtype != Dtype::kF8E4M3 && tensor.dtype != Dtype::kF8E5M2) return statistics;
  const std::uint32_t scale_position = FindScale(catalog, tensor.name);
  if (scale_position == Catalog::kNone) {
    statistics.note = "No scale tensor is beside it, so there is no dequantised view.";
    return statistics;
  }
  const CatalogTensor& scale = catalog.tensors()[scale_position];
  statistics.scale = scale.name;
  const ScaledWeights found =
      FindScaledWeights(catalog, config == nullptr ? ModelConfig() : *config);
  const auto pair = std::find_if(found.pairs.begin(), found.pairs.end(),
                                 [&](const ScaledWeight& p) { return p.weight == position; });
  if (pair == found.pairs.end()) {
    statistics.note = WhyNotDequantized(tensor, scale, config, found);
  } else {
    statistics.dequantized = MeasureDequantized(catalog, *pair);
  }
  return statistics;
}

}  // namespace dsv3::convert
