#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

// Spans of values and codes; an internal part of the expressions that quantise.
namespace dsv3::convert {

// `count` elements from `from` on.
template <typename T>
std::span<T> SpanPart(std::span<T> all, std::uint64_t from, std::uint64_t count) {
  return all.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(count));
}

inline std::span<const std::uint8_t> AsCodes(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()};
}
inline std::span<std::uint8_t> AsCodes(std::span<std::byte> bytes) {
  return {reinterpret_cast<std::uint8_t*>(bytes.data()), bytes.size()};
}

}  // namespace dsv3::convert
