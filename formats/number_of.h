#pragma once

#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>

namespace dsv3::formats {

// The number that the whole text is, as std::from_chars reads it: no sign but '-', no space.
// Nothing for any other text, and for a number that T does not hold. Pure and thread-safe.
template <typename T>
std::optional<T> NumberOf(std::string_view text) {
  T number{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end) return std::nullopt;
  return number;
}

}  // namespace dsv3::formats
