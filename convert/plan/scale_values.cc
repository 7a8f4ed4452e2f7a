#include "convert/plan/scale_values.h"

#include <optional>

#include "convert/catalog/ceil_div.h"
#include "quant/quantize.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kRowsOfWord = 8;  // of packed zeros
constexpr std::uint64_t kWordBytes = 4;

// Packed zeros have none of their own.
std::optional<quant::ScaleFormat> FloatFormatOf(ZeroFormat format) {
  switch (format) {
    case ZeroFormat::kF32:
      return quant::ScaleFormat::kF32;
    case ZeroFormat::kBF16:
      return quant::ScaleFormat::kBF16;
    case ZeroFormat::kF16:
      return quant::ScaleFormat::kF16;
    case ZeroFormat::kI8:
    case ZeroFormat::kPackedRows:
      break;
  }
  return std::nullopt;
}

std::uint64_t BytesOf(ZeroFormat format) {
  const auto as_scale = FloatFormatOf(format);
  return as_scale ? quant::ScaleBytes(*as_scale) : 1;
}

std::uint32_t WordAt(std::span<const std::byte> bytes, std::uint64_t word) {
  std::uint32_t value = 0;
  for (std::uint64_t i = kWordBytes; i-- > 0;) {
    value = value << 8 | std::to_integer<std::uint32_t>(bytes[word * kWordBytes + i]);
  }
  return value;
}

}  // namespace

std::size_t NumScaleReads(const ScaledWeight& weight) {
  return std::size_t{1} + (weight.tensor_scale != Catalog::kNone ? 1 : 0) +
         (weight.zeros != Catalog::kNone ? 1 : 0);
}

std::uint64_t ScaleBytes(const ScaledWeight& weight) {
  return quant::ScaleBytes(weight.scale_format) +
         (weight.zeros == Catalog::kNone ? 0 : BytesOf(weight.zero_format));
}

void AppendScaleReads(const ScaledWeight& weight, std::uint64_t first, std::uint64_t end,
                      std::vector<SourceRange>& reads) {
  const std::uint64_t bytes = quant::ScaleBytes(weight.scale_format);
  reads.push_back({weight.scale, first * bytes, end * bytes});
  if (weight.tensor_scale != Catalog::kNone) {
    reads.push_back({weight.tensor_scale, 0, quant::ScaleBytes(weight.tensor_scale_format)});
  }
  if (weight.zeros == Catalog::kNone) return;
  if (weight.zero_format == ZeroFormat::kPackedRows) {
    const std::uint64_t row_bytes = weight.ScaleCols() * kWordBytes;
    const std::uint64_t first_row = first / weight.ScaleCols() / kRowsOfWord;
    const std::uint64_t last_row = (end - 1) / weight.ScaleCols() / kRowsOfWord;
    reads.push_back({weight.zeros, first_row * row_bytes, (last_row + 1) * row_bytes});
  } else {
    const std::uint64_t zero_bytes = BytesOf(weight.zero_format);
    reads.push_back({weight.zeros, first * zero_bytes, end * zero_bytes});
  }
}

void DecodeScaleValues(const ScaledWeight& weight, std::uint64_t first, std::uint64_t end,
                       std::span<const std::span<const std::byte>> inputs, ScaleValues& values) {
  quant::DecodeScales(weight.scale_format, inputs[0], values.scales);
  std::size_t next = 1;
  if (weight.tensor_scale != Catalog::kNone) {
    std::vector<float> scale;
    quant::DecodeScales(weight.tensor_scale_format, inputs[next++], scale);
    quant::ApplyTensorScale(weight.tensor_scale_use, scale.front(), values.scales);
  }
  values.zeros.clear();
  if (weight.zeros == Catalog::kNone) return;
  const std::span<const std::byte> bytes = inputs[next];
  if (const auto as_scale = FloatFormatOf(weight.zero_format)) {
    quant::DecodeScales(*as_scale, bytes, values.zeros);
  } else if (weight.zero_format == ZeroFormat::kI8) {
    for (const std::byte code : bytes) {
      values.zeros.push_back(
          quant::DecodeCode(quant::CodeFormat::kI8, std::to_integer<std::uint8_t>(code)));
    }
  } else {
    const std::uint64_t cols = weight.ScaleCols();
    const std::uint64_t first_row = first / cols / kRowsOfWord;
    for (std::uint64_t scale = first; scale < end; ++scale) {
      const std::uint64_t row = scale / cols;
      const std::uint32_t word =
          WordAt(bytes, (row / kRowsOfWord - first_row) * cols + scale % cols);
      const auto code = static_cast<std::uint8_t>(word >> (row % kRowsOfWord * 4) & 0xF);
      values.zeros.push_back(quant::DecodeCode(quant::CodeFormat::kI4Offset, code));
    }
  }
}

}  // namespace dsv3::convert
