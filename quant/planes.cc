#include "quant/planes.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "quant/planes_piece.h"

namespace dsv3::quant {
namespace {

using internal::PlaneSpan;
using internal::PlaneStep;

const std::uint8_t* Bytes(std::span<const std::byte> span) {
  return reinterpret_cast<const std::uint8_t*>(span.data());
}

std::uint8_t* Bytes(std::span<std::byte> span) {
  return reinterpret_cast<std::uint8_t*>(span.data());
}

PlaneStep DifferenceStep(NumberOrder order) {
  return order == NumberOrder::kFloat ? PlaneStep::kFloatDifference : PlaneStep::kIntegerDifference;
}

template <typename T>
T LoadElement(const std::uint8_t* from) {
  T element = 0;
  for (unsigned k = 0; k < sizeof(T); ++k) {
    element = static_cast<T>(element | static_cast<T>(T{from[k]} << (8 * k)));
  }
  return element;
}

// An element with its bits in the order of the numbers, and back.
template <typename T>
T Ordered(PlaneStep step, T x) {
  constexpr T kSign = static_cast<T>(T{1} << (8 * sizeof(T) - 1));
  const bool flips = step == PlaneStep::kFloatDifference && (x & kSign) != 0;
  return static_cast<T>(flips ? x ^ static_cast<T>(~kSign) : x);
}

template <typename T>
T ForwardScalar(PlaneStep step, T x, const std::uint8_t* base) {
  constexpr unsigned kTop = 8 * sizeof(T) - 1;
  if (step == PlaneStep::kNone) return x;
  if (step == PlaneStep::kRotate) return static_cast<T>(x << 1 | x >> kTop);
  const T b = LoadElement<T>(base);
  const T difference = static_cast<T>(Ordered(step, x) - Ordered(step, b));
  const bool negative = difference >> kTop != 0;
  return static_cast<T>(negative ? ~(difference << 1) : difference << 1);
}

template <typename T>
T BackwardScalar(PlaneStep step, T x, const std::uint8_t* base) {
  constexpr unsigned kTop = 8 * sizeof(T) - 1;
  if (step == PlaneStep::kNone) return x;
  if (step == PlaneStep::kRotate) return static_cast<T>(x >> 1 | x << kTop);
  const T b = LoadElement<T>(base);
  const T difference = static_cast<T>((x & 1) != 0 ? ~(x >> 1) : x >> 1);
  return Ordered(step, static_cast<T>(Ordered(step, b) + difference));
}

// The elements from `first` on.
template <typename T>
void SplitRest(PlaneStep step, const std::uint8_t* in, PlaneSpan span, std::size_t first,
               std::uint8_t* planes) {
  for (std::size_t i = first; i < span.n; ++i) {
    const std::size_t at = i * sizeof(T);
    const T x = ForwardScalar(step, LoadElement<T>(in + at), span.base + at);
    for (unsigned k = 0; k < sizeof(T); ++k) {
      planes[k * span.n + i] = static_cast<std::uint8_t>(x >> (8 * k));
    }
  }
}

template <typename T>
void JoinRest(PlaneStep step, const std::uint8_t* planes, PlaneSpan span, std::size_t first,
              std::uint8_t* out) {
  for (std::size_t i = first; i < span.n; ++i) {
    T x = 0;
    for (unsigned k = 0; k < sizeof(T); ++k) {
      x = static_cast<T>(x | static_cast<T>(T{planes[k * span.n + i]} << (8 * k)));
    }
    const std::size_t at = i * sizeof(T);
    x = BackwardScalar(step, x, span.base + at);
    for (unsigned k = 0; k < sizeof(T); ++k) out[at + k] = static_cast<std::uint8_t>(x >> (8 * k));
  }
}

void Split(PlaneStep step, std::span<const std::byte> in, const std::uint8_t* base, unsigned width,
           bool vectors, std::span<std::byte> out) {
  const PlaneSpan span{.base = base, .n = in.size() / width};
  const std::size_t first =
      vectors ? internal::SplitVectors(step, width, Bytes(in), span, Bytes(out)) : 0;
  if (width == 1) SplitRest<std::uint8_t>(step, Bytes(in), span, first, Bytes(out));
  if (width == 2) SplitRest<std::uint16_t>(step, Bytes(in), span, first, Bytes(out));
  if (width == 4) SplitRest<std::uint32_t>(step, Bytes(in), span, first, Bytes(out));
  if (width == 8) SplitRest<std::uint64_t>(step, Bytes(in), span, first, Bytes(out));
}

void Join(PlaneStep step, std::span<const std::byte> planes, const std::uint8_t* base,
          unsigned width, bool vectors, std::span<std::byte> out) {
  const PlaneSpan span{.base = base, .n = out.size() / width};
  const std::size_t first =
      vectors ? internal::JoinVectors(step, width, Bytes(planes), span, Bytes(out)) : 0;
  if (width == 1) JoinRest<std::uint8_t>(step, Bytes(planes), span, first, Bytes(out));
  if (width == 2) JoinRest<std::uint16_t>(step, Bytes(planes), span, first, Bytes(out));
  if (width == 4) JoinRest<std::uint32_t>(step, Bytes(planes), span, first, Bytes(out));
  if (width == 8) JoinRest<std::uint64_t>(step, Bytes(planes), span, first, Bytes(out));
}

}  // namespace

void SplitPlanes(std::span<const std::byte> in, unsigned width, std::span<std::byte> out) {
  Split(PlaneStep::kNone, in, Bytes(in), width, true, out);
}

void JoinPlanes(std::span<const std::byte> planes, unsigned width, std::span<std::byte> out) {
  Join(PlaneStep::kNone, planes, Bytes(planes), width, true, out);
}

void SplitFloats(std::span<const std::byte> in, std::span<std::byte> out) {
  Split(PlaneStep::kRotate, in, Bytes(in), 2, true, out);
}

void JoinFloats(std::span<const std::byte> planes, std::span<std::byte> out) {
  Join(PlaneStep::kRotate, planes, Bytes(planes), 2, true, out);
}

void SplitDifferences(std::span<const std::byte> in, std::span<const std::byte> base,
                      unsigned width, NumberOrder order, std::span<std::byte> out) {
  Split(DifferenceStep(order), in, Bytes(base), width, true, out);
}

void JoinDifferences(std::span<const std::byte> planes, std::span<const std::byte> base,
                     unsigned width, NumberOrder order, std::span<std::byte> out) {
  Join(DifferenceStep(order), planes, Bytes(base), width, true, out);
}

std::size_t CountDifferent(std::span<const std::byte> a, std::span<const std::byte> b,
                           unsigned width) {
  const std::size_t n = a.size() / width;
  std::size_t different = 0;
  std::size_t i = internal::CountVectors(width, Bytes(a), Bytes(b), n, different);
  for (; i < n; ++i) {
    different += std::memcmp(a.data() + i * width, b.data() + i * width, width) != 0 ? 1 : 0;
  }
  return different;
}

void SplitPlanesScalar(std::span<const std::byte> in, unsigned width, std::span<std::byte> out) {
  Split(PlaneStep::kNone, in, Bytes(in), width, false, out);
}

void JoinPlanesScalar(std::span<const std::byte> planes, unsigned width, std::span<std::byte> out) {
  Join(PlaneStep::kNone, planes, Bytes(planes), width, false, out);
}

void SplitFloatsScalar(std::span<const std::byte> in, std::span<std::byte> out) {
  Split(PlaneStep::kRotate, in, Bytes(in), 2, false, out);
}

void JoinFloatsScalar(std::span<const std::byte> planes, std::span<std::byte> out) {
  Join(PlaneStep::kRotate, planes, Bytes(planes), 2, false, out);
}

void SplitDifferencesScalar(std::span<const std::byte> in, std::span<const std::byte> base,
                            unsigned width, NumberOrder order, std::span<std::byte> out) {
  Split(DifferenceStep(order), in, Bytes(base), width, false, out);
}

void JoinDifferencesScalar(std::span<const std::byte> planes, std::span<const std::byte> base,
                           unsigned width, NumberOrder order, std::span<std::byte> out) {
  Join(DifferenceStep(order), planes, Bytes(base), width, false, out);
}

}  // namespace dsv3::quant
