#include "convert/packing/sparse_chunk.h"

#include <cstdint>
#include <cstring>

namespace dsv3::convert {
namespace {

constexpr unsigned kLongGap = 255;
constexpr std::size_t kBlockBytes = 32;

// Whether the blocks of kBlockBytes are equal.
bool EqualBlocks(const std::byte* a, const std::byte* b) {
  std::uint64_t x[kBlockBytes / 8];
  std::uint64_t y[kBlockBytes / 8];
  std::memcpy(x, a, kBlockBytes);
  std::memcpy(y, b, kBlockBytes);
  return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3])) == 0;
}

template <typename T>
class Gatherer {
 public:
  Gatherer(std::byte* gaps, std::byte* values, std::byte* base_values)
      : gaps_(gaps), values_(values), base_values_(base_values) {}

  void SkipEqual(unsigned elements) {
    run_ += elements;
    while (run_ >= kLongGap) EndLongGap();
  }

  // Without a branch on whether the element changed: that is what cannot be foretold.
  void Add(const std::byte* raw, const std::byte* base) {
    T value;
    T base_value;
    std::memcpy(&value, raw, sizeof value);
    std::memcpy(&base_value, base, sizeof base_value);
    const unsigned changed = value != base_value ? 1 : 0;
    gaps_[sizes_.gap_bytes] = static_cast<std::byte>(run_);
    std::memcpy(values_ + sizes_.changed * sizeof(T), &value, sizeof value);
    std::memcpy(base_values_ + sizes_.changed * sizeof(T), &base_value, sizeof base_value);
    sizes_.gap_bytes += changed;
    sizes_.changed += changed;
    run_ = (run_ + 1) & (changed - 1);
    if (run_ == kLongGap) EndLongGap();
  }

  // What was put down of the equal elements behind the last changed one is taken back.
  SparseSizes Finish() const {
    SparseSizes sizes = sizes_;
    while (sizes.gap_bytes != 0 && gaps_[sizes.gap_bytes - 1] == std::byte{kLongGap}) {
      --sizes.gap_bytes;
    }
    return sizes;
  }

 private:
  void EndLongGap() {
    gaps_[sizes_.gap_bytes++] = std::byte{kLongGap};
    run_ -= kLongGap;
  }

  std::byte* gaps_;
  std::byte* values_;
  std::byte* base_values_;
  SparseSizes sizes_;
  unsigned run_ = 0;  // equal elements since the last changed one or long gap
};

template <typename T>
SparseSizes Gather(std::span<const std::byte> raw, std::span<const std::byte> base,
                   Gatherer<T> gatherer) {
  std::size_t i = 0;
  for (; i + kBlockBytes <= raw.size(); i += kBlockBytes) {
    if (EqualBlocks(raw.data() + i, base.data() + i)) {
      gatherer.SkipEqual(kBlockBytes / sizeof(T));
      continue;
    }
    for (std::size_t k = 0; k < kBlockBytes; k += sizeof(T)) {
      gatherer.Add(raw.data() + i + k, base.data() + i + k);
    }
  }
  for (; i < raw.size(); i += sizeof(T)) gatherer.Add(raw.data() + i, base.data() + i);
  return gatherer.Finish();
}

// Calls visit(element, number) for each element that the gaps find; false where they find another
// number of them than `changed`, or leave the chunk.
template <typename Visit>
bool VisitChanges(std::size_t elements, std::span<const std::byte> gaps, std::size_t changed,
                  const Visit& visit) {
  std::size_t element = 0;
  std::size_t found = 0;
  if (gaps.empty() || gaps.back() == std::byte{kLongGap}) return false;
  for (const std::byte gap : gaps) {
    element += std::to_integer<unsigned>(gap);
    if (gap == std::byte{kLongGap}) continue;
    if (element >= elements || found == changed) return false;
    visit(element, found);
    ++element;
    ++found;
  }
  return found == changed;
}

template <typename Work>
auto WithWidth(unsigned width, const Work& work) {
  if (width == 1) return work(std::uint8_t{});
  if (width == 2) return work(std::uint16_t{});
  if (width == 4) return work(std::uint32_t{});
  return work(std::uint64_t{});
}

}  // namespace

SparseSizes GatherChanges(std::span<const std::byte> raw, std::span<const std::byte> base,
                          unsigned width, std::byte* gaps, std::byte* values,
                          std::byte* base_values) {
  return WithWidth(width, [&](auto element) {
    return Gather(raw, base, Gatherer<decltype(element)>(gaps, values, base_values));
  });
}

bool GatherElements(std::span<const std::byte> elements, unsigned width,
                    std::span<const std::byte> gaps, std::size_t changed, std::byte* out) {
  return WithWidth(width, [&](auto element) {
    constexpr std::size_t kWidth = sizeof element;
    return VisitChanges(
        elements.size() / kWidth, gaps, changed, [&](std::size_t place, std::size_t number) {
          std::memcpy(out + number * kWidth, elements.data() + place * kWidth, kWidth);
        });
  });
}

void ScatterElements(std::span<const std::byte> values, unsigned width,
                     std::span<const std::byte> gaps, std::span<std::byte> elements) {
  WithWidth(width, [&](auto element) {
    constexpr std::size_t kWidth = sizeof element;
    return VisitChanges(elements.size() / kWidth, gaps, values.size() / kWidth,
                        [&](std::size_t place, std::size_t number) {
                          std::memcpy(elements.data() + place * kWidth,
                                      values.data() + number * kWidth, kWidth);
                        });
  });
}

}  // namespace dsv3::convert
