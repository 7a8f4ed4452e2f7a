#pragma once

#include <cstdint>

#include "quant/dequantize.h"

// Codes of every form of quantised weights: FP8, INT8, INT4 and E2M1 → BF16 or float.
namespace dsv3::quant {

// What the codes of a quantised weight are. Codes of four bits lie two in a byte, the element with
// the even column in the low half; INT4 in words of 32 bits is the same, since these are
// little-endian.
enum class CodeFormat {
  kE4M3,
  kE5M2,
  kI8,        // two's complement
  kI4,        // two's complement: 0x8 is −8
  kI4Offset,  // offset binary: the value is the code minus 8 (compressed-tensors' pack-quantized)
  kE2M1,      // 0x8 is −0
};

// Bits of a code: 8 or 4.
constexpr unsigned CodeBits(CodeFormat format) {
  switch (format) {
    case CodeFormat::kE4M3:
    case CodeFormat::kE5M2:
    case CodeFormat::kI8:
      return 8;
    case CodeFormat::kI4:
    case CodeFormat::kI4Offset:
    case CodeFormat::kE2M1:
      return 4;
  }
  return 8;
}

// The value of one code without a scale; of four bits `code` is below 16.
float DecodeCode(CodeFormat format, std::uint8_t code);

// out[i] = BF16((float(code) − zero) × scale): a float subtraction, which is exact for integers,
// one float multiplication and one rounding to nearest even. Without zeros nothing is subtracted.
// FP8 codes have none, and become what DequantizeToBF16 of dequantize.h says; every NaN that the
// others give (by a NaN scale or zero, or 0 × infinity) is 0x7FC0. Bit-identical on every
// instruction set and in every floating-point environment. `out` has as many elements as `in` has
// codes. Preconditions: cols > 0, block.rows > 0, block.cols > 0; with codes of four bits, in.first
// and in.cols are even.
void DequantizeToBF16(CodeFormat format, const DequantizeSpan& in, std::uint16_t* out,
                      DequantizeCounts& counts);

// The scalar meaning of the same: the oracle of its tests.
void DequantizeToBF16Scalar(CodeFormat format, const DequantizeSpan& in, std::uint16_t* out,
                            DequantizeCounts& counts);

// out[i] = (float(code) − zero) × scale: the value that DequantizeToBF16 rounds. Needs the default
// floating-point environment. The same preconditions.
void DequantizeToFloat(CodeFormat format, const DequantizeSpan& in, float* out);

// The scales of a weight whose scales have a scale themselves: each times that of the tensor, or
// divided by it, in float.
enum class TensorScaleUse { kMultiply, kDivide };
void ApplyTensorScale(TensorScaleUse use, float tensor_scale, std::span<float> scales);

}  // namespace dsv3::quant
