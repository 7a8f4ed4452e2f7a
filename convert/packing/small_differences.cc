#include "convert/packing/small_differences.h"

#include <cstdint>
#include <cstring>

namespace dsv3::convert {
namespace {

constexpr std::byte kLarge{255};

// Calls visit(place) for each byte that is kLarge, until it returns false.
template <typename Visit>
bool VisitLarge(std::span<const std::byte> small, const Visit& visit) {
  const std::byte* const begin = small.data();
  const std::byte* const end = begin + small.size();
  for (const std::byte* at = begin; at != end; ++at) {
    at = static_cast<const std::byte*>(
        std::memchr(at, std::to_integer<int>(kLarge), static_cast<std::size_t>(end - at)));
    if (at == nullptr) return true;
    if (!visit(static_cast<std::size_t>(at - begin))) return false;
  }
  return true;
}

}  // namespace

std::size_t PartDifferences(std::span<const std::byte> planes, unsigned width,
                            std::span<std::byte> small, std::span<std::byte> large) {
  const std::size_t n = small.size();
  std::memcpy(small.data(), planes.data(), n);
  for (unsigned k = 1; k < width; ++k) {
    const std::byte* const plane = planes.data() + k * n;
    for (std::size_t i = 0; i < n; ++i)
      small[i] |= plane[i] != std::byte{0} ? kLarge : std::byte{0};
  }
  std::size_t found = 0;
  VisitLarge(small, [&](std::size_t place) {
    std::uint64_t difference = 0;
    for (unsigned k = 0; k < width; ++k) {
      difference |= std::to_integer<std::uint64_t>(planes[k * n + place]) << (8 * k);
    }
    difference -= std::to_integer<std::uint64_t>(kLarge);
    std::memcpy(large.data() + found++ * width, &difference, width);
    return true;
  });
  return found;
}

bool MergeDifferences(std::span<const std::byte> small, std::span<const std::byte> large,
                      unsigned width, std::span<std::byte> planes) {
  const std::size_t n = small.size();
  const std::size_t count = large.size() / width;
  std::memcpy(planes.data(), small.data(), n);
  std::memset(planes.data() + n, 0, planes.size() - n);
  std::size_t found = 0;
  const bool fits = VisitLarge(small, [&](std::size_t place) {
    if (found == count) return false;
    std::uint64_t above = 0;
    std::memcpy(&above, large.data() + found++ * width, width);
    const std::uint64_t difference = above + std::to_integer<std::uint64_t>(kLarge);
    for (unsigned k = 0; k < width; ++k) {
      planes[k * n + place] = static_cast<std::byte>(difference >> (8 * k));
    }
    const std::uint64_t limit = ~std::uint64_t{0} >> (64 - 8 * width);
    return above <= limit - std::to_integer<std::uint64_t>(kLarge);
  });
  return fits && found == count;
}

}  // namespace dsv3::convert
