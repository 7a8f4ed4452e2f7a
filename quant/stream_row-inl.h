// Copies of rows past the caches, for each instruction set; included once for each by the files
// that use foreach_target.h.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(DSV3_QUANT_STREAM_ROW_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV3_QUANT_STREAM_ROW_INL_H
#undef DSV3_QUANT_STREAM_ROW_INL_H
#else
#define DSV3_QUANT_STREAM_ROW_INL_H
#endif

#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR

inline void StreamRow(const std::uint8_t* from, std::size_t size, std::uint8_t* to) {
  std::memcpy(to, from, size);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

// memcpy of few bytes, in place: a row has two of them.
HWY_INLINE void CopyFew(const std::uint8_t* HWY_RESTRICT from, std::size_t size,
                        std::uint8_t* HWY_RESTRICT to) {
  std::size_t i = 0;
  for (; i + 16 <= size; i += 16) std::memcpy(to + i, from + i, 16);
  if ((size & 8) != 0) {
    std::memcpy(to + i, from + i, 8);
    i += 8;
  }
  if ((size & 4) != 0) {
    std::memcpy(to + i, from + i, 4);
    i += 4;
  }
  if ((size & 2) != 0) {
    std::memcpy(to + i, from + i, 2);
    i += 2;
  }
  if ((size & 1) != 0) to[i] = from[i];
}

// Stores whole cache lines past the caches, and the bytes around them as usual.
inline void StreamRow(const std::uint8_t* HWY_RESTRICT from, std::size_t size,
                      std::uint8_t* HWY_RESTRICT to) {
  const hn::ScalableTag<std::uint8_t> d;
  const std::size_t lanes = hn::Lanes(d);
  const std::size_t line = std::max<std::size_t>(lanes, 64);
  std::size_t i = std::min(size, (line - reinterpret_cast<std::uintptr_t>(to) % line) % line);
  CopyFew(from, i, to);
  for (; i + line <= size; i += line) {
    for (std::size_t j = i; j < i + line; j += lanes) hn::Stream(hn::LoadU(d, from + j), d, to + j);
  }
  CopyFew(from + i, size - i, to + i);
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#endif  // include guard
