#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace dsv3::formats {

// A value of a GGUF file's metadata: a number, a bool, a text, or an array of one of these. Texts
// are bytes; the format asks for UTF-8, and tokens are not always that.
using GgufValue =
    std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t,
                 std::int32_t, float, bool, std::string, std::uint64_t, std::int64_t, double,
                 std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>,
                 std::vector<std::int16_t>, std::vector<std::uint32_t>, std::vector<std::int32_t>,
                 std::vector<float>, std::vector<bool>, std::vector<std::string>,
                 std::vector<std::uint64_t>, std::vector<std::int64_t>, std::vector<double>>;

// In the order of the file.
using GgufKeys = std::vector<std::pair<std::string, GgufValue>>;

// The numbers of the kinds of values in a file, by the variant's index of a value that is no array.
inline constexpr std::uint32_t kGgufValueKinds[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12};
inline constexpr std::uint32_t kGgufArrayKind = 9;

}  // namespace dsv3::formats
