#include "convert/stream/value_reader.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "convert/plan/scale_values.h"
#include "quant/codec.h"
#include "quant/codes.h"
#include "quant/statistics.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

// Elements that are rounded in one call: larger results would pass the caches by.
constexpr std::uint64_t kRoundedTogether = std::uint64_t{1} << 16;

std::optional<quant::StoredFloat> StoredFloatOf(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF8E4M3:
      return quant::StoredFloat::kE4M3;
    case Dtype::kF8E5M2:
      return quant::StoredFloat::kE5M2;
    case Dtype::kF8E8M0:
      return quant::StoredFloat::kE8M0;
    case Dtype::kBF16:
      return quant::StoredFloat::kBF16;
    case Dtype::kF16:
      return quant::StoredFloat::kF16;
    case Dtype::kF32:
    case Dtype::kC64:  // both parts, one by one
      return quant::StoredFloat::kF32;
    default:
      return std::nullopt;
  }
}

ValueForm FormOf(Dtype dtype) {
  if (StoredFloatOf(dtype)) return ValueForm::kFloat;
  switch (dtype) {
    case Dtype::kF6E2M3:
    case Dtype::kF6E3M2:
      return ValueForm::kNone;
    case Dtype::kF4:
    case Dtype::kF8E4M3Fnuz:
    case Dtype::kF8E5M2Fnuz:
    case Dtype::kBool:
    case Dtype::kI8:
    case Dtype::kU8:
    case Dtype::kI16:
    case Dtype::kU16:
      return ValueForm::kFloat;
    default:
      return ValueForm::kDouble;
  }
}

template <typename T, typename Out>
void Widen(std::span<const std::byte> bytes, Out* out) {
  for (std::size_t i = 0; i < bytes.size() / sizeof(T); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof value);
    out[i] = static_cast<Out>(value);
  }
}

void DecodeBytes(std::span<const std::byte> bytes, float (*decode)(std::uint8_t), float* out) {
  for (const std::byte code : bytes) *out++ = decode(std::to_integer<std::uint8_t>(code));
}

void DecodeSmall(Dtype dtype, std::span<const std::byte> bytes, float* out) {
  switch (dtype) {
    case Dtype::kF4:  // two in a byte; the low half comes first
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        out[2 * i] = quant::DecodeE2M1(std::to_integer<std::uint8_t>(bytes[i] & std::byte{0xF}));
        out[2 * i + 1] = quant::DecodeE2M1(std::to_integer<std::uint8_t>(bytes[i] >> 4));
      }
      return;
    case Dtype::kF8E4M3Fnuz:
      return DecodeBytes(bytes, quant::DecodeE4M3Fnuz, out);
    case Dtype::kF8E5M2Fnuz:
      return DecodeBytes(bytes, quant::DecodeE5M2Fnuz, out);
    case Dtype::kI8:
      return Widen<std::int8_t>(bytes, out);
    case Dtype::kI16:
      return Widen<std::int16_t>(bytes, out);
    case Dtype::kU16:
      return Widen<std::uint16_t>(bytes, out);
    default:  // U8, and booleans as 0 and 1
      return Widen<std::uint8_t>(bytes, out);
  }
}

}  // namespace

ValueReader::ValueReader(const Catalog& catalog, std::uint32_t tensor, const ScaledWeight* pair)
    : pair_(pair),
      dtype_(catalog.tensors()[tensor].dtype),
      form_(FormOf(dtype_)),
      bits_(dtype_ == Dtype::kC64 ? 32 : formats::DtypeBits(dtype_)),
      elements_(catalog.tensors()[tensor].extent.length * 8 / bits_) {
  if (pair == nullptr) return;
  if (pair->format == quant::CodeFormat::kE4M3) fp8_ = quant::Fp8Format::kE4M3;
  if (pair->format == quant::CodeFormat::kE5M2) fp8_ = quant::Fp8Format::kE5M2;
  form_ = ValueForm::kFloat;
  bits_ = quant::CodeBits(pair->format);
  elements_ = catalog.tensors()[tensor].extent.length * 8 / bits_;
  scale_rows_ = pair->ScaleRows();
  scale_cols_ = pair->ScaleCols();
}

ValueReader::ValueReader(const Catalog& catalog, std::uint32_t tensor, const ScaleMap& scales)
    : ValueReader(catalog, tensor, scales.OfWeight(tensor)) {
  const ScaledWeight* const of_scale = scales.OfScale(tensor);
  // U8 may hold E8M0.
  if (of_scale != nullptr && of_scale->scale == tensor &&
      of_scale->scale_format == quant::ScaleFormat::kE8M0) {
    dtype_ = Dtype::kF8E8M0;
    form_ = ValueForm::kFloat;
  }
}

std::uint64_t ValueReader::ScaleRowStart(std::uint64_t element) const {
  const std::uint64_t row = element / pair_->cols;
  const std::uint64_t scale_row =
      row / pair_->rows * scale_rows_ + row % pair_->rows / pair_->block.rows;
  return scale_row * scale_cols_;
}

ValueReader::ScaleSpan ValueReader::ScalesOf(std::uint64_t begin, std::uint64_t end) const {
  const std::uint64_t last = end - 1;
  if (begin / pair_->cols == last / pair_->cols) {
    const std::uint64_t row = ScaleRowStart(begin);
    return {row + begin % pair_->cols / pair_->block.cols,
            row + last % pair_->cols / pair_->block.cols + 1};
  }
  return {ScaleRowStart(begin), ScaleRowStart(last) + scale_cols_};
}

void ValueReader::AppendScaleReads(std::uint64_t begin, std::uint64_t end,
                                   std::vector<SourceRange>& reads) const {
  if (pair_ == nullptr) return;
  const ScaleSpan span = ScalesOf(begin, end);
  convert::AppendScaleReads(*pair_, span.first, span.end, reads);
}

void ValueReader::DecodeScales(std::uint64_t begin, std::uint64_t end,
                               std::span<const std::span<const std::byte>> inputs,
                               Scales& scales) const {
  scales.values.clear();
  scales.zeros.clear();
  if (pair_ == nullptr) return;
  const ScaleSpan span = ScalesOf(begin, end);
  scales.first = span.first;
  ScaleValues values{std::move(scales.values), std::move(scales.zeros)};
  DecodeScaleValues(*pair_, span.first, span.end, inputs, values);
  scales.values = std::move(values.scales);
  scales.zeros = std::move(values.zeros);
}

float ValueReader::ScaleOf(std::uint64_t element, const Scales& scales) const {
  const std::uint64_t column = element % pair_->cols / pair_->block.cols;
  return scales.values[ScaleRowStart(element) + column - scales.first];
}

template <typename Work>
void ValueReader::ForEachSpan(std::uint64_t first, std::span<const std::byte> bytes,
                              const Scales& scales, std::uint64_t together,
                              const Work& work) const {
  const std::uint64_t codes_of_byte = 8 / bits_;
  const std::span<const std::uint8_t> codes(reinterpret_cast<const std::uint8_t*>(bytes.data()),
                                            bytes.size());
  const std::uint64_t count = codes.size() * codes_of_byte;
  for (std::uint64_t done = 0; done < count;) {
    const std::uint64_t element = first + done;
    const std::uint64_t column = element % pair_->cols;
    std::uint64_t size = std::min(pair_->cols - column, count - done);
    std::uint64_t scale = ScaleRowStart(element) - scales.first;
    quant::DequantizeSpan span;
    if (together != 0 && size == pair_->cols) {
      // Whole rows of one matrix, which share what is made of a scale.
      const std::uint64_t row = element / pair_->cols % pair_->rows;
      size *= std::min({(count - done) / pair_->cols, pair_->rows - row,
                        std::max<std::uint64_t>(1, together / pair_->cols)});
      span.first = row % pair_->block.rows * pair_->cols;
      span.cols = pair_->cols;
      span.block = pair_->block;
    } else {
      // A part of one row, as a matrix of its own that begins with a block.
      span.first = column % pair_->block.cols;
      span.cols = span.first + size;
      span.block = {1, pair_->block.cols};
      scale += column / pair_->block.cols;
    }
    span.codes = codes.subspan(static_cast<std::size_t>(done / codes_of_byte),
                               static_cast<std::size_t>(size / codes_of_byte));
    span.scales = std::span(scales.values).subspan(scale);
    if (!scales.zeros.empty()) span.zeros = std::span(scales.zeros).subspan(scale);
    work(static_cast<std::size_t>(done), span);
    done += size;
  }
}

void ValueReader::Floats(std::uint64_t first, std::span<const std::byte> bytes,
                         const Scales& scales, float* out) const {
  if (pair_ == nullptr) return StoredFloats(bytes, out);
  ForEachSpan(first, bytes, scales, 0, [&](std::size_t done, const quant::DequantizeSpan& span) {
    if (!fp8_) return quant::DequantizeToFloat(pair_->format, span, out + done);
    quant::DecodeScaledFloats(
        *fp8_, {span.codes, span.first, pair_->block.cols, span.scales.data()}, out + done);
  });
}

void ValueReader::StoredFloats(std::span<const std::byte> bytes, float* out) const {
  if (const auto format = StoredFloatOf(dtype_)) return quant::DecodeFloats(*format, bytes, out);
  DecodeSmall(dtype_, bytes, out);
}

void ValueReader::RoundedToBF16(std::uint64_t first, std::span<const std::byte> bytes,
                                const Scales& scales, std::uint16_t* out) const {
  quant::DequantizeCounts counts;
  ForEachSpan(first, bytes, scales, kRoundedTogether,
              [&](std::size_t done, const quant::DequantizeSpan& span) {
                quant::DequantizeToBF16(pair_->format, span, out + done, counts);
              });
}

void ValueReader::FloatsRoundedToBF16(std::uint64_t first, std::span<const std::byte> bytes,
                                      const Scales& scales, float* out) const {
  std::array<std::uint16_t, kValueChunk> rounded;
  const std::size_t codes_of_byte = 8 / bits_;
  for (std::size_t done = 0; done < bytes.size();) {
    const std::size_t size = std::min(bytes.size() - done, rounded.size() / codes_of_byte);
    const std::size_t element = done * codes_of_byte;
    const std::size_t count = size * codes_of_byte;
    RoundedToBF16(first + element, bytes.subspan(done, size), scales, rounded.data());
    quant::DecodeFloats(quant::StoredFloat::kBF16, std::as_bytes(std::span(rounded).first(count)),
                        out + element);
    done += size;
  }
}

void ValueReader::Doubles(std::span<const std::byte> bytes, double* out) const {
  switch (dtype_) {
    case Dtype::kF64:
      return Widen<double>(bytes, out);
    case Dtype::kI32:
      return Widen<std::int32_t>(bytes, out);
    case Dtype::kU32:
      return Widen<std::uint32_t>(bytes, out);
    case Dtype::kI64:
      return Widen<std::int64_t>(bytes, out);
    case Dtype::kU64:
      return Widen<std::uint64_t>(bytes, out);
    default:
      return;
  }
}

}  // namespace dsv3::convert
