#pragma once

#include <cstddef>
#include <cstdint>

// Products of weight matrices with activations, for a forward pass that gives the same bytes
// always. All functions are pure and thread-safe, and need the default floating-point environment.
//
// Each sum over n elements has one order. Element k belongs to lane k mod 16. A lane begins with 0
// and takes its elements in the order of k, each by one fused multiply-add; a last group of fewer
// than 16 elements is filled with zeros. Then the lanes are added in a tree: lane i and lane i + 8,
// then i and i + 4, then i and i + 2, then the last two. So a result depends on its row of weights
// and its token alone: not on the number of rows and tokens in the call, on their addresses, on
// threads, or on the instruction set. The one exception: instruction sets without fused
// multiply-add (x86 before AVX2) round the product too, which gives other last bits.
//
// NaNs and infinities spread as IEEE 754 says; the bits of a NaN are not defined.
namespace dsv3::quant {

// Rows of a matrix of floats, one for each token. Row t begins at values + t * stride and has as
// many elements as the weights have columns.
struct Activations {
  const float* values = nullptr;
  std::size_t tokens = 0;
  std::size_t stride = 0;
};

// out[t * out_stride + r] = the sum over k of x.values[t * x.stride + k] * weights[r * cols + k],
// for each token t and each r < rows. Weights are BF16 numbers or floats. `out` overlaps no input.
// One call uses one thread; threads may share the rows.
void MultiplyBF16(const std::uint16_t* weights, std::size_t rows, std::size_t cols,
                  const Activations& x, float* out, std::size_t out_stride);
void MultiplyF32(const float* weights, std::size_t rows, std::size_t cols, const Activations& x,
                 float* out, std::size_t out_stride);

// The sum of a[k] * b[k], in the order above.
float Dot(const float* a, const float* b, std::size_t n);

// out[i] = factor * x[i] + out[i], one fused multiply-add. `out` and `x` do not overlap.
void AddScaled(float factor, const float* x, float* out, std::size_t n);

// The same for `count` rows, one after the other: row r is at x + r * stride, its factor is
// factors[r].
void AddScaledRows(const float* factors, std::size_t count, const float* x, std::size_t stride,
                   float* out, std::size_t n);

// The scalar meaning, with fused multiply-adds: the oracle of the tests.
float DotScalar(const float* a, const float* b, std::size_t n);

}  // namespace dsv3::quant
