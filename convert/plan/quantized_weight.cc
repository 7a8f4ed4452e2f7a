#include "convert/plan/quantized_weight.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/plan/span_parts.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// Blocks of no rows or columns are refused later.
constexpr std::uint64_t NumBlocks(std::uint64_t length, std::uint64_t block) {
  return block == 0 ? 0 : CeilDiv(length, block);
}

std::string_view ValueName(float value) {
  if (std::isnan(value)) return "NaN";
  return value > 0 ? "infinite" : "minus infinite";
}

}  // namespace

std::uint64_t QuantizedWeight::PanelRows() const { return std::min(format.block.rows, rows); }
std::uint64_t QuantizedWeight::ScaleRows() const { return NumBlocks(rows, format.block.rows); }
std::uint64_t QuantizedWeight::ScaleCols() const { return NumBlocks(cols, format.block.cols); }
std::uint64_t QuantizedWeight::ScaleRowBytes() const {
  return ScaleCols() * quant::ScaleBytes(StoredScale());
}

std::optional<quant::FloatFormat> FloatFormatOf(formats::Dtype dtype) {
  switch (dtype) {
    case formats::Dtype::kBF16:
      return quant::FloatFormat::kBF16;
    case formats::Dtype::kF16:
      return quant::FloatFormat::kF16;
    case formats::Dtype::kF32:
      return quant::FloatFormat::kF32;
    default:
      return std::nullopt;
  }
}

formats::Dtype ScaleDtype(quant::ScaleFormat format) {
  switch (format) {
    case quant::ScaleFormat::kBF16:
      return formats::Dtype::kBF16;
    case quant::ScaleFormat::kF16:
      return formats::Dtype::kF16;
    case quant::ScaleFormat::kE8M0:
      return formats::Dtype::kF8E8M0;
    case quant::ScaleFormat::kE4M3:
      return formats::Dtype::kF8E4M3;
    case quant::ScaleFormat::kF32:
      break;
  }
  return formats::Dtype::kF32;
}

quant::ScaleFormat QuantizedWeight::StoredScale() const {
  return quant::StoredScaleFormat(format, values);
}
formats::Dtype QuantizedWeight::StoredScaleDtype() const {
  return scale_dtype.value_or(ScaleDtype(StoredScale()));
}

bool NeedsTwoPasses(const QuantizedWeight& weight) {
  const std::uint64_t held = quant::FloatBytes(weight.values) + (weight.original ? 1 : 0);
  return weight.cols != 0 && weight.PanelRows() > kMaxPanelBytes / held / weight.cols;
}

FirstPass::FirstPass(const Catalog& catalog, const QuantizedWeight& weight)
    : weight_(weight),
      place_(PlaceOf(catalog, weight.weight)),
      blocks_(static_cast<std::size_t>(weight.matrices * weight.ScaleRows() * weight.ScaleCols())) {
}

void FirstPass::Add(std::uint64_t first, std::span<const std::byte> values,
                    std::span<const std::byte> codes, std::span<const std::byte> scales) {
  const std::uint64_t value_bytes = quant::FloatBytes(weight_.values);
  const std::uint64_t matrix = weight_.rows * weight_.cols;
  const std::uint64_t panel_elements = weight_.PanelRows() * weight_.cols;
  const std::uint64_t end = first + values.size() / value_bytes;
  const std::uint64_t row_bytes = weight_.ScaleRowBytes();
  std::vector<quant::BlockState> states;
  std::uint64_t next = first;
  for (std::uint64_t at = first; at < end; at = next) {
    const std::uint64_t in_panel = at % matrix % panel_elements;
    const std::uint64_t panel = at / matrix * weight_.ScaleRows() + at % matrix / panel_elements;
    const std::uint64_t panel_begin = at - in_panel;
    next = std::min({end, panel_begin + panel_elements, at - at % matrix + matrix});
    quant::PanelPart part;
    part.format = weight_.values;
    part.values = SpanPart(values, (at - first) * value_bytes, (next - at) * value_bytes);
    part.first = in_panel;
    part.cols = weight_.cols;
    states.assign(static_cast<std::size_t>(weight_.ScaleCols()), {});
    std::optional<quant::NonfiniteValue> found;
    if (weight_.original) {
      quant::OriginalPart original;
      original.codes = AsCodes(SpanPart(codes, at - first, next - at));
      original.scales = SpanPart(scales, panel * row_bytes, row_bytes);
      original.scale_format = weight_.StoredScale();
      quant::UpdateAmaxLike(weight_.format.block.cols, part, original, states);
    } else {
      found = quant::UpdateAmax(weight_.format.block.cols, part, weight_.nonfinite, states);
    }
    const std::lock_guard lock(mutex_);
    quant::JoinStates(
        states, SpanPart(std::span(blocks_), panel * weight_.ScaleCols(), weight_.ScaleCols()));
    if (!found) continue;
    const std::uint64_t element = panel_begin + found->row * weight_.cols + found->col;
    if (nonfinite_element_ && *nonfinite_element_ < element) continue;
    nonfinite_element_ = element;
    nonfinite_value_ = found->value;
  }
}

void FirstPass::Finish(std::span<const std::byte> original_scales) {
  if (nonfinite_element_) FailNonfinite(weight_, place_, *nonfinite_element_, nonfinite_value_);
  const std::size_t bytes = blocks_.size() * quant::ScaleBytes(weight_.StoredScale());
  scale_bytes_.resize(bytes);
  if (weight_.original) {
    quant::StoreScalesLike(weight_.format, weight_.values, blocks_, original_scales, scale_bytes_);
  } else {
    quant::StoreScales(weight_.format, weight_.values, blocks_, scale_bytes_);
  }
  finished_ = true;
}

std::span<const quant::BlockState> FirstPass::PanelBlocks(std::uint64_t panel) const {
  return SpanPart(std::span(blocks_), panel * weight_.ScaleCols(), weight_.ScaleCols());
}

void FailNonfinite(const QuantizedWeight& weight, const ErrorPlace& place, std::uint64_t element,
                   float value) {
  const std::uint64_t row = element / weight.cols;
  const std::string matrix =
      weight.matrices == 1 ? "" : fmt::format("matrix {}, ", row / weight.rows);
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("{}: tensor {} is {} at {}row {}, column {}, expected finite numbers; "
                  "repair the weights, or begin anew with --nonfinite saturate --overwrite, "
                  "which counts such values",
                  formats::ShownPath(place.file), QuoteForMessage(place.tensor), ValueName(value),
                  matrix, row % weight.rows, element % weight.cols),
      place);
}

ErrorPlace PlaceOf(const Catalog& catalog, std::uint32_t tensor) {
  const CatalogTensor& entry = catalog.tensors()[tensor];
  return {catalog.files()[entry.extent.file].name, entry.name};
}

}  // namespace dsv3::convert
