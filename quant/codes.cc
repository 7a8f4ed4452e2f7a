#include "quant/codes.h"

#include <cstddef>
#include <span>

#include "quant/codec.h"
#include "quant/codes_piece.h"
#include "quant/default_float_environment.h"
#include "quant/stream_stores.h"

namespace dsv3::quant {

float DecodeCode(CodeFormat format, std::uint8_t code) {
  switch (format) {
    case CodeFormat::kE4M3:
      return DecodeE4M3(code);
    case CodeFormat::kE5M2:
      return DecodeE5M2(code);
    case CodeFormat::kI8:
      return static_cast<float>(static_cast<std::int8_t>(code));
    case CodeFormat::kI4:
      return static_cast<float>((code ^ 8) - 8);
    case CodeFormat::kI4Offset:
      return static_cast<float>(code - 8);
    case CodeFormat::kE2M1:
      return DecodeE2M1(code);
  }
  return 0;
}

void DequantizeToBF16(CodeFormat format, const DequantizeSpan& in, std::uint16_t* out,
                      DequantizeCounts& counts) {
  if (in.codes.empty()) return;
  if (format == CodeFormat::kE4M3) return DequantizeToBF16(Fp8Format::kE4M3, in, out, counts);
  if (format == CodeFormat::kE5M2) return DequantizeToBF16(Fp8Format::kE5M2, in, out, counts);
  const internal::DefaultFloatEnvironment environment;
  const std::uint64_t elements = internal::ElementsOf(format, in);
  internal::DequantizeCodesBest(format, in, elements, elements >= internal::kStreamElements, out);
}

void DequantizeToBF16Scalar(CodeFormat format, const DequantizeSpan& in, std::uint16_t* out,
                            DequantizeCounts& counts) {
  if (in.codes.empty()) return;
  if (format == CodeFormat::kE4M3) return DequantizeE4M3ToBF16Scalar(in, out, counts);
  if (format == CodeFormat::kE5M2) return DequantizeE5M2ToBF16Scalar(in, out, counts);
  const internal::DefaultFloatEnvironment environment;
  const std::uint64_t elements = internal::ElementsOf(format, in);
  std::uint64_t element = 0;
  for (internal::ScaleRuns run(in, elements); run.size() != 0; run.Next()) {
    for (const std::uint64_t end = element + run.size(); element < end; ++element) {
      const float value = DecodeCode(format, internal::CodeAt(format, in, element));
      out[element] =
          internal::ScaleToBF16(value, internal::ZeroOf(in, run.scale()), in.scales[run.scale()]);
    }
  }
}

void DequantizeToFloat(CodeFormat format, const DequantizeSpan& in, float* out) {
  if (in.codes.empty()) return;
  internal::DequantizeCodesToFloat(format, in, internal::ElementsOf(format, in), out);
}

void ApplyTensorScale(TensorScaleUse use, float tensor_scale, std::span<float> scales) {
  if (scales.empty()) return;
  const internal::DefaultFloatEnvironment environment;
  internal::ScaleScales(use, tensor_scale, scales.data(), scales.size());
}

}  // namespace dsv3::quant
