#include "formats/shape.h"

#include <algorithm>

#include <fmt/format.h>

namespace dsv3::formats {

std::optional<std::uint64_t> NumElements(const Shape& shape) {
  std::uint64_t product = 1;
  for (const std::uint64_t dimension : shape) {
    if (__builtin_mul_overflow(product, dimension, &product)) return std::nullopt;
  }
  return product;
}

std::optional<std::uint64_t> NumBytes(Dtype dtype, const Shape& shape) {
  const std::optional<std::uint64_t> elements = NumElements(shape);
  std::uint64_t bits = 0;
  if (!elements || __builtin_mul_overflow(*elements, DtypeBits(dtype), &bits)) return std::nullopt;
  if (bits % 8 != 0) return std::nullopt;
  return bits / 8;
}

std::string ShapeToString(const Shape& shape) {
  constexpr std::size_t kMostShown = 16;
  std::string text = "[";
  for (std::size_t i = 0; i < std::min(shape.size(), kMostShown); ++i) {
    if (i > 0) text += ", ";
    text += fmt::format_int(shape[i]).c_str();
  }
  if (shape.size() > kMostShown) text += fmt::format(", ... {} dimensions", shape.size());
  text += ']';
  return text;
}

}  // namespace dsv3::formats
