#pragma once

#include <cstddef>

// Internal to quant/.
namespace dsv3::quant::internal {

// From this many elements on, kernels store their results past the caches.
inline constexpr std::size_t kStreamElements = std::size_t{1} << 17;

}  // namespace dsv3::quant::internal
