#pragma once

#include <cstddef>
#include <span>

// Exponentials in double precision of many floats: for probabilities of logits. Pure and
// thread-safe; the bits are the same wherever a value lies and whatever the instruction set is,
// with the exception of matmul.h.
namespace dsv3::quant {

// out[i] = exp(x[i] − shift), for x[i] <= shift. Relative error below 4e-16 where the result is a
// normal number; 0 for −inf. A NaN gives a NaN.
void Exponentials(std::span<const float> x, double shift, double* out);

// The sum of them. Value i is added to lane i mod 16, then the lanes to each other in order.
double SumOfExponentials(std::span<const float> x, double shift);

}  // namespace dsv3::quant
