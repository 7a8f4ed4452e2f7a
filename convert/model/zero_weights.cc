#include "convert/model/zero_weights.h"

#include <algorithm>
#include <array>

namespace dsv3::convert {

bool IsWeightMatrix(std::string_view name, formats::Dtype dtype, const formats::Shape& shape) {
  using formats::Dtype;
  constexpr std::array kDtypes = {Dtype::kF8E4M3, Dtype::kF8E5M2, Dtype::kBF16,
                                  Dtype::kF16,    Dtype::kF32,    Dtype::kF64};
  constexpr std::array<std::string_view, 3> kLast = {"weight", "gate_up_proj", "down_proj"};
  const std::string_view last = name.substr(name.rfind('.') + 1);
  return shape.size() >= 2 && std::find(kDtypes.begin(), kDtypes.end(), dtype) != kDtypes.end() &&
         std::find(kLast.begin(), kLast.end(), last) != kLast.end();
}

bool IsCodeMatrix(std::string_view name, formats::Dtype dtype, const formats::Shape& shape) {
  using formats::Dtype;
  constexpr std::array kDtypes = {Dtype::kU8, Dtype::kI8, Dtype::kI32};
  constexpr std::array<std::string_view, 6> kLast = {
      "weight",        "weight_packed",       "qweight",
      "weight_blocks", "gate_up_proj_blocks", "down_proj_blocks"};
  const std::string_view last = name.substr(name.rfind('.') + 1);
  return shape.size() >= 2 && std::find(kDtypes.begin(), kDtypes.end(), dtype) != kDtypes.end() &&
         std::find(kLast.begin(), kLast.end(), last) != kLast.end();
}

bool AreZero(std::size_t float_bytes, std::span<const std::byte> bytes) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const bool has_sign = i % float_bytes == float_bytes - 1;  // little-endian
    const std::byte bits = has_sign ? bytes[i] & std::byte{0x7F} : bytes[i];
    if (bits != std::byte{0}) return false;
  }
  return true;
}

bool IsScaleOfZeros(float scale) {
  constexpr float kFloor = 0x1p-22F;  // 1e-4 / 448, rounded up to a power of two
  constexpr float kBf16Epsilon = 0x1p-7F;
  constexpr float kFp8Epsilon = 0x1p-3F;
  return (scale >= 0 && scale <= kFloor) || scale == kBf16Epsilon || scale == kFp8Epsilon ||
         scale == 1;
}

}  // namespace dsv3::convert
