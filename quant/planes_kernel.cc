// The vector kernels of planes.h, compiled once for each instruction set.
#include <cstddef>
#include <cstdint>

#include "quant/planes_piece.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/planes_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dsv3::quant::internal {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

std::size_t SplitVectorsTarget(PlaneStep /*step*/, unsigned /*width*/, const std::uint8_t* /*in*/,
                               PlaneSpan /*span*/, std::uint8_t* /*planes*/) {
  return 0;
}

std::size_t JoinVectorsTarget(PlaneStep /*step*/, unsigned /*width*/,
                              const std::uint8_t* /*planes*/, PlaneSpan /*span*/,
                              std::uint8_t* /*out*/) {
  return 0;
}

std::size_t CountVectorsTarget(unsigned /*width*/, const std::uint8_t* /*a*/,
                               const std::uint8_t* /*b*/, std::size_t /*n*/,
                               std::size_t& /*different*/) {
  return 0;
}

#else

template <class D>
HWY_INLINE hn::Vec<D> LoadBytes(D d, const std::uint8_t* HWY_RESTRICT from) {
  return hn::BitCast(d, hn::LoadU(hn::Repartition<std::uint8_t, D>(), from));
}

template <class D>
HWY_INLINE void StoreBytes(hn::Vec<D> v, D /*d*/, std::uint8_t* HWY_RESTRICT to) {
  const hn::Repartition<std::uint8_t, D> bytes;
  hn::StoreU(hn::BitCast(bytes, v), bytes, to);
}

// All bits set in the lanes whose highest bit is set.
template <class D>
HWY_INLINE hn::Vec<D> Sign(D d, hn::Vec<D> v) {
  return hn::BitCast(d, hn::BroadcastSignBit(hn::BitCast(hn::RebindToSigned<D>(), v)));
}

template <PlaneStep kStep, class D>
HWY_INLINE hn::Vec<D> Order(D d, hn::Vec<D> v) {
  if constexpr (kStep == PlaneStep::kFloatDifference) {
    using T = hn::TFromD<D>;
    constexpr T kMagnitude = static_cast<T>(static_cast<T>(~T{0}) >> 1);
    return hn::Xor(v, hn::And(Sign(d, v), hn::Set(d, kMagnitude)));
  } else {
    return v;
  }
}

template <PlaneStep kStep, class D>
HWY_INLINE hn::Vec<D> Forward(D d, hn::Vec<D> v, const std::uint8_t* HWY_RESTRICT base) {
  if constexpr (kStep == PlaneStep::kNone) {
    return v;
  } else if constexpr (kStep == PlaneStep::kRotate) {
    return hn::Or(hn::Add(v, v), hn::ShiftRight<sizeof(hn::TFromD<D>) * 8 - 1>(v));
  } else {
    const auto difference = hn::Sub(Order<kStep>(d, v), Order<kStep>(d, LoadBytes(d, base)));
    return hn::Xor(hn::Add(difference, difference), Sign(d, difference));
  }
}

template <PlaneStep kStep, class D>
HWY_INLINE hn::Vec<D> Backward(D d, hn::Vec<D> v, const std::uint8_t* HWY_RESTRICT base) {
  using T = hn::TFromD<D>;
  if constexpr (kStep == PlaneStep::kNone) {
    return v;
  } else if constexpr (kStep == PlaneStep::kRotate) {
    return hn::Or(hn::ShiftRight<1>(v), hn::ShiftLeft<sizeof(T) * 8 - 1>(v));
  } else {
    const auto negative = hn::Sub(hn::Zero(d), hn::And(v, hn::Set(d, T{1})));
    const auto difference = hn::Xor(hn::ShiftRight<1>(v), negative);
    return Order<kStep>(d, hn::Add(difference, Order<kStep>(d, LoadBytes(d, base))));
  }
}

// The bytes of elements whose places in them end in the kDepth lowest bits of kPlane: vector j of
// them, from the vectors of elements at `in`. (Not by arrays: vectors of SVE have no size.)
template <PlaneStep kStep, unsigned kPlane, unsigned kDepth, class D>
HWY_INLINE hn::Vec<hn::Repartition<std::uint8_t, D>> PlaneVector(
    D d, const std::uint8_t* HWY_RESTRICT in, const std::uint8_t* HWY_RESTRICT base,
    std::size_t j) {
  const hn::Repartition<std::uint8_t, D> bytes;
  if constexpr (kDepth == 0) {
    const std::size_t at = j * hn::Lanes(bytes);
    return hn::BitCast(bytes, Forward<kStep>(d, LoadBytes(d, in + at), base + at));
  } else {
    const auto low = PlaneVector<kStep, kPlane, kDepth - 1>(d, in, base, 2 * j);
    const auto high = PlaneVector<kStep, kPlane, kDepth - 1>(d, in, base, 2 * j + 1);
    if constexpr ((kPlane >> (kDepth - 1) & 1) != 0) {
      return hn::ConcatOdd(bytes, high, low);
    } else {
      return hn::ConcatEven(bytes, high, low);
    }
  }
}

// Makes the planes from kPlane on before it stores them, so that they share what they have in
// common.
template <PlaneStep kStep, unsigned kPlane, class D>
HWY_INLINE void StorePlanes(D d, const std::uint8_t* HWY_RESTRICT in,
                            const std::uint8_t* HWY_RESTRICT base, std::size_t n,
                            std::uint8_t* HWY_RESTRICT planes) {
  constexpr unsigned kWidth = sizeof(hn::TFromD<D>);
  constexpr unsigned kDepth = kWidth / 2;
  const hn::Repartition<std::uint8_t, D> bytes;
  const auto v = PlaneVector<kStep, kPlane, kDepth>(d, in, base, 0);
  if constexpr (kPlane + 1 < kWidth) StorePlanes<kStep, kPlane + 1>(d, in, base, n, planes);
  hn::StoreU(v, bytes, planes + kPlane * n);
}

template <PlaneStep kStep, typename T>
std::size_t SplitWidth(const std::uint8_t* HWY_RESTRICT in, PlaneSpan span,
                       std::uint8_t* HWY_RESTRICT planes) {
  const hn::ScalableTag<T> d;
  const std::size_t lanes = hn::Lanes(hn::ScalableTag<std::uint8_t>());
  std::size_t i = 0;
  for (; i + lanes <= span.n; i += lanes) {
    const std::size_t at = i * sizeof(T);
    StorePlanes<kStep, 0>(d, in + at, span.base + at, span.n, planes + i);
  }
  return i;
}

// The next bytes of a plane, one to a lane.
template <class D>
HWY_INLINE hn::Vec<D> LoadPlane(D d, const std::uint8_t* HWY_RESTRICT plane) {
  const auto bytes = hn::LoadU(hn::Rebind<std::uint8_t, D>(), plane);
  if constexpr (sizeof(hn::TFromD<D>) == 1) {
    return bytes;
  } else if constexpr (sizeof(hn::TFromD<D>) == 8) {
    return hn::PromoteTo(d, hn::PromoteTo(hn::Rebind<std::uint32_t, D>(), bytes));
  } else {
    return hn::PromoteTo(d, bytes);
  }
}

template <PlaneStep kStep, typename T>
std::size_t JoinWidth(const std::uint8_t* HWY_RESTRICT planes, PlaneSpan span,
                      std::uint8_t* HWY_RESTRICT out) {
  const hn::ScalableTag<T> d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= span.n; i += lanes) {
    const std::uint8_t* const plane = planes + i;
    auto v = LoadPlane(d, plane);
    if constexpr (sizeof(T) >= 2) v = hn::Or(v, hn::ShiftLeft<8>(LoadPlane(d, plane + span.n)));
    if constexpr (sizeof(T) >= 4) {
      v = hn::Or(v, hn::ShiftLeft<16>(LoadPlane(d, plane + 2 * span.n)));
      v = hn::Or(v, hn::ShiftLeft<24>(LoadPlane(d, plane + 3 * span.n)));
    }
    if constexpr (sizeof(T) == 8) {
      v = hn::Or(v, hn::ShiftLeft<32>(LoadPlane(d, plane + 4 * span.n)));
      v = hn::Or(v, hn::ShiftLeft<40>(LoadPlane(d, plane + 5 * span.n)));
      v = hn::Or(v, hn::ShiftLeft<48>(LoadPlane(d, plane + 6 * span.n)));
      v = hn::Or(v, hn::ShiftLeft<56>(LoadPlane(d, plane + 7 * span.n)));
    }
    const std::size_t at = i * sizeof(T);
    StoreBytes(Backward<kStep>(d, v, span.base + at), d, out + at);
  }
  return i;
}

template <PlaneStep kStep>
std::size_t SplitStep(unsigned width, const std::uint8_t* in, PlaneSpan span,
                      std::uint8_t* planes) {
  if (width == 1) return SplitWidth<kStep, std::uint8_t>(in, span, planes);
  if (width == 2) return SplitWidth<kStep, std::uint16_t>(in, span, planes);
  if (width == 4) return SplitWidth<kStep, std::uint32_t>(in, span, planes);
  return 0;  // elements of 8 bytes are rare in checkpoints, and their kernel would be a large one
}

template <PlaneStep kStep>
std::size_t JoinStep(unsigned width, const std::uint8_t* planes, PlaneSpan span,
                     std::uint8_t* out) {
  if (width == 1) return JoinWidth<kStep, std::uint8_t>(planes, span, out);
  if (width == 2) return JoinWidth<kStep, std::uint16_t>(planes, span, out);
  if (width == 4) return JoinWidth<kStep, std::uint32_t>(planes, span, out);
  return JoinWidth<kStep, std::uint64_t>(planes, span, out);
}

std::size_t SplitVectorsTarget(PlaneStep step, unsigned width, const std::uint8_t* in,
                               PlaneSpan span, std::uint8_t* planes) {
  switch (step) {
    case PlaneStep::kNone:
      return SplitStep<PlaneStep::kNone>(width, in, span, planes);
    case PlaneStep::kRotate:
      return SplitWidth<PlaneStep::kRotate, std::uint16_t>(in, span, planes);
    case PlaneStep::kIntegerDifference:
      return SplitStep<PlaneStep::kIntegerDifference>(width, in, span, planes);
    case PlaneStep::kFloatDifference:
      return SplitStep<PlaneStep::kFloatDifference>(width, in, span, planes);
  }
  return 0;
}

std::size_t JoinVectorsTarget(PlaneStep step, unsigned width, const std::uint8_t* planes,
                              PlaneSpan span, std::uint8_t* out) {
  switch (step) {
    case PlaneStep::kNone:
      return JoinStep<PlaneStep::kNone>(width, planes, span, out);
    case PlaneStep::kRotate:
      return JoinWidth<PlaneStep::kRotate, std::uint16_t>(planes, span, out);
    case PlaneStep::kIntegerDifference:
      return JoinStep<PlaneStep::kIntegerDifference>(width, planes, span, out);
    case PlaneStep::kFloatDifference:
      return JoinStep<PlaneStep::kFloatDifference>(width, planes, span, out);
  }
  return 0;
}

template <typename T>
std::size_t CountWidth(const std::uint8_t* a, const std::uint8_t* b, std::size_t n,
                       std::size_t& different) {
  const hn::ScalableTag<T> d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto equal = hn::Eq(LoadBytes(d, a + i * sizeof(T)), LoadBytes(d, b + i * sizeof(T)));
    different += lanes - hn::CountTrue(d, equal);
  }
  return i;
}

std::size_t CountVectorsTarget(unsigned width, const std::uint8_t* a, const std::uint8_t* b,
                               std::size_t n, std::size_t& different) {
  if (width == 1) return CountWidth<std::uint8_t>(a, b, n, different);
  if (width == 2) return CountWidth<std::uint16_t>(a, b, n, different);
  if (width == 4) return CountWidth<std::uint32_t>(a, b, n, different);
  return CountWidth<std::uint64_t>(a, b, n, different);
}

#endif  // HWY_TARGET

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::quant::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::quant::internal {

HWY_EXPORT(SplitVectorsTarget);
HWY_EXPORT(JoinVectorsTarget);
HWY_EXPORT(CountVectorsTarget);

std::size_t SplitVectors(PlaneStep step, unsigned width, const std::uint8_t* in, PlaneSpan span,
                         std::uint8_t* planes) {
  return HWY_DYNAMIC_DISPATCH(SplitVectorsTarget)(step, width, in, span, planes);
}

std::size_t JoinVectors(PlaneStep step, unsigned width, const std::uint8_t* planes, PlaneSpan span,
                        std::uint8_t* out) {
  return HWY_DYNAMIC_DISPATCH(JoinVectorsTarget)(step, width, planes, span, out);
}

std::size_t CountVectors(unsigned width, const std::uint8_t* a, const std::uint8_t* b,
                         std::size_t n, std::size_t& different) {
  return HWY_DYNAMIC_DISPATCH(CountVectorsTarget)(width, a, b, n, different);
}

}  // namespace dsv3::quant::internal
#endif  // HWY_ONCE
