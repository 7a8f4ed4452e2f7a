#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "quant/codes.h"

// Exact re-encodings of weights of E2M1 codes: the codes and scales of one form from those of
// another. Each function says which codes would lose a bit, so that a caller can refuse these. All
// functions are thread-safe, and their results are the same in every floating-point environment.
namespace dsv3::quant {

// A set of E2M1 magnitudes: bit m is that of the codes m and m + 8.
using E2M1Set = std::uint8_t;

// The magnitudes among codes, two in a byte.
E2M1Set MagnitudesOf(std::span<const std::uint8_t> codes);

// MXFP4 → FP8. A block's E8M0 scale, where `largest` is the largest E8M0 scale of the groups in it:
// 2^6 below that, since 6 × 2^6 is the largest such product that E4M3 holds; 2^-127 at least.
std::uint8_t Fp8BlockScale(std::uint8_t largest);

// out[i] = E4M3(code × 2^(group − block)), signs kept, for both codes of each byte: the low half
// first. Codes of MagnitudesLostInFp8 are rounded to nearest, ties to even.
// Precondition: group <= block + 6.
void E2M1ToE4M3(std::span<const std::uint8_t> codes, std::uint8_t group, std::uint8_t block,
                std::uint8_t* out);
E2M1Set MagnitudesLostInFp8(std::uint8_t group, std::uint8_t block);

// MXFP4 → NVFP4. The scale of the tensor whose largest E8M0 scale is `largest`, 2^8 below that; and
// the E4M3 scale of a group, 2^(group − largest + 8), but 2^-9 at least, E4M3's smallest. So both
// together are the group's scale while LosesGroupScale does not hold. Precondition: group <=
// largest.
float NvFp4TensorScale(std::uint8_t largest);
std::uint8_t NvFp4GroupScale(std::uint8_t group, std::uint8_t largest);
bool LosesGroupScale(std::uint8_t group, std::uint8_t largest);

// NVFP4 whose tensor scale multiplies ↔ NVFP4 whose tensor scale divides. The new tensor scale for
// one that is used as `from`: 1 / tensor_scale rounded to float or, where some value would change
// with that, a float at most two steps beside it with which none does; where there is none, the
// rounded quotient. `groups` says which E4M3 scales the tensor has.
float OtherTensorScale(TensorScaleUse from, float tensor_scale,
                       const std::array<bool, 256>& groups);
// The magnitudes whose BF16 values change in a group with this E4M3 scale.
E2M1Set MagnitudesLostByTensorScale(TensorScaleUse from, float tensor_scale, float other,
                                    std::uint8_t group);

// 1 / x rounded to float.
float Reciprocal(float x);

}  // namespace dsv3::quant
