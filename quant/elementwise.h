#pragma once

#include <cstddef>
#include <span>

// The functions of a forward pass that are neither sums of products nor roundings. All are pure and
// thread-safe, and need the default floating-point environment. They give the same bits wherever a
// value lies and whatever the instruction set is, with the exception of matmul.h: x86 before AVX2,
// which has no fused multiply-add, gives other last bits. A NaN gives NaNs.
namespace dsv3::quant {

// out[i] = (gate[i] / (1 + exp(−gate[i]))) * up[i]. Relative error below 4e-7; below a gate of −87,
// where the result is less than 1e-35 of `up`, it may be zero. `out` may be `gate` or `up`.
void SiluProduct(const float* gate, const float* up, float* out, std::size_t n);

// scores[i] = exp(scores[i] − m) / the sum over j of exp(scores[j] − m), where m is the largest
// score. A score of −inf gives 0; if all are −inf, or one is +inf, there are NaNs. Relative error
// below 4e-7 for the differences as floats hold them. The sum is one of doubles in one order, which
// depends on the number of scores alone: score j is added to lane j mod 16, then the lanes to each
// other in order.
void SoftmaxInPlace(std::span<float> scores);

// The scalar meanings, with fused multiply-adds: the oracles of the tests.
void SiluProductScalar(const float* gate, const float* up, float* out, std::size_t n);
void SoftmaxScalar(std::span<float> scores);

}  // namespace dsv3::quant
