#include "convert/model/zero_weights.h"

#include <algorithm>
#include <array>

namespace dsv3::convert {

bool IsWeightMatrix(std::string_view name, const formats::Shape& shape) {
  constexpr std::array<std::string_view, 5> kLast = {"weight", "weight_packed", "qweight",
                                                     "gate_up_proj", "down_proj"};
  const std::string_view last = name.substr(name.rfind('.') + 1);
  return shape.size() >= 2 && std::find(kLast.begin(), kLast.end(), last) != kLast.end();
}

bool IsScaleOfZeros(float scale) {
  constexpr float kFloor = 0x1p-22F;  // 1e-4 / 448, rounded up to a power of two
  constexpr float kBf16Epsilon = 0x1p-7F;
  constexpr float kFp8Epsilon = 0x1p-3F;
  return (scale >= 0 && scale <= kFloor) || scale == kBf16Epsilon || scale == kFp8Epsilon ||
         scale == 1;
}

}  // namespace dsv3::convert
