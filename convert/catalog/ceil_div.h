#pragma once

#include <cstdint>

namespace dsv3::convert {

// a / b, rounded up; b is not 0. Never overflows.
constexpr std::uint64_t CeilDiv(std::uint64_t a, std::uint64_t b) { return a / b + (a % b != 0); }

}  // namespace dsv3::convert
