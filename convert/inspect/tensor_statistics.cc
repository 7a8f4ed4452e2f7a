#include "convert/inspect/tensor_statistics.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "convert/inspect/value_counter.h"
#include "convert/plan/dequantize_expression.h"
#include "formats/io/input_file.h"
#include "quant/dequantize.h"

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

std::optional<quant::ScaleFormat> ScaleFormatOf(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return quant::ScaleFormat::kF32;
    case Dtype::kBF16:
      return quant::ScaleFormat::kBF16;
    case Dtype::kF8E8M0:
      return quant::ScaleFormat::kE8M0;
    default:
      return std::nullopt;
  }
}

std::uint64_t NumBlocks(std::uint64_t size, std::uint64_t block) {
  return size / block + (size % block != 0 ? 1 : 0);
}

// Why the scale cannot be applied; empty when it can.
std::string WhyNotDequantized(const CatalogTensor& weight, const CatalogTensor& scale,
                              const ModelConfig* config) {
  if (config == nullptr || !config->quantization || !config->quantization->weight_block_size) {
    return fmt::format("config.json names no weight_block_size, so '{}' was not applied.",
                       scale.name);
  }
  const quant::BlockShape block = *config->quantization->weight_block_size;
  if (!ScaleFormatOf(scale.dtype)) {
    return fmt::format("'{}' is {}, which is no format of scales, so it was not applied.",
                       scale.name, formats::DtypeName(scale.dtype));
  }
  if (weight.shape.size() != 2) return "The tensor is no matrix, so its scale was not applied.";
  const formats::Shape expected = {NumBlocks(weight.shape[0], block.rows),
                                   NumBlocks(weight.shape[1], block.cols)};
  if (scale.shape != expected) {
    return fmt::format(
        "'{}' has shape {}, but blocks of {}×{} as config.json names them need {}, so it was not "
        "applied.",
        scale.name, formats::ShapeToString(scale.shape), block.rows, block.cols,
        formats::ShapeToString(expected));
  }
  if (expected[1] > kMaxPieceScales / 2) return "The scale is too wide to be applied here.";
  return "";
}

ValueStatistics MeasureDequantized(const Catalog& catalog, const CatalogTensor& weight,
                                   const CatalogTensor& scale, quant::BlockShape block) {
  ValueCounter counter(Dtype::kBF16);
  const std::uint64_t num = weight.extent.length;
  if (num == 0) return counter.Finish();
  const formats::InputFile weight_file = OpenFileOf(catalog, weight);
  const formats::InputFile scale_file = OpenFileOf(catalog, scale);
  const std::uint64_t cols = weight.shape[1];
  const std::uint64_t scale_cols = scale.shape[1];
  const std::uint64_t scale_row_bytes = scale_cols * (formats::DtypeBits(scale.dtype) / 8);
  // Short enough that the rows of scales that it meets fit, whatever the shape of the blocks.
  const std::uint64_t rows = std::max<std::uint64_t>(1, kMaxPieceScales / scale_cols - 1);
  const std::uint64_t step = rows > kPieceBytes / cols ? kPieceBytes : rows * cols;

  std::vector<std::uint8_t> codes;
  std::vector<std::byte> scale_bytes;
  std::vector<float> scales;
  std::vector<std::uint16_t> values;
  quant::DequantizeCounts counts;
  for (std::uint64_t first = 0; first < num; first += step) {
    const std::uint64_t size = std::min(step, num - first);
    codes.resize(size);
    values.resize(size);
    weight_file.ReadAt(weight.extent.offset + first, std::as_writable_bytes(std::span(codes)));
    const std::uint64_t first_scale_row = first / cols / block.rows;
    const std::uint64_t last_scale_row = (first + size - 1) / cols / block.rows;
    scale_bytes.resize((last_scale_row - first_scale_row + 1) * scale_row_bytes);
    scale_file.ReadAt(scale.extent.offset + first_scale_row * scale_row_bytes, scale_bytes);
    quant::DecodeScales(ScaleFormatOf(scale.dtype).value(), scale_bytes, scales);
    quant::DequantizeE4M3ToBF16({codes, first, cols, block, scales}, values.data(), counts);
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
  if (tensor.dtype != Dtype::kF8E4M3) return statistics;
  const std::uint32_t scale_position = FindScale(catalog, tensor.name);
  if (scale_position == Catalog::kNone) {
    statistics.note = "No scale tensor is beside it, so there is no dequantised view.";
    return statistics;
  }
  const CatalogTensor& scale = catalog.tensors()[scale_position];
  statistics.scale = scale.name;
  statistics.note = WhyNotDequantized(tensor, scale, config);
  if (statistics.note.empty()) {
    statistics.dequantized =
        MeasureDequantized(catalog, tensor, scale, *config->quantization->weight_block_size);
  }
  return statistics;
}

}  // namespace dsv3::convert
