// Products of weights with activations, on one core, against what this core can do at most: its
// fused multiply-adds and its reading of memory, measured in the same run.
//
//   dsv3-matmul-bench
//
// Prints the share of either for the shapes of experts and of whole layers. Times are those of the
// thread, the least of several, so that other programs disturb little.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <limits>
#include <random>
#include <vector>

#include <fmt/format.h>

#include "quant/codec.h"
#include "quant/matmul.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/matmul_bench.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.h.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace dsv3::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Twelve chains hide the latency of a multiply-add. Returns the number of multiply-adds and leaves
// a value that depends on all.
std::size_t MultiplyAdd(std::size_t rounds, float* result) {
  const hn::CappedTag<float, 16> d;
  const auto factor = hn::Set(d, 0.999F);
  const auto term = hn::Set(d, 0.001F);
  // Different beginnings, or the compiler makes one chain of equal ones.
  auto a = hn::Set(d, 0.1F);
  auto b = hn::Set(d, 0.2F);
  auto c = hn::Set(d, 0.3F);
  auto e = hn::Set(d, 0.4F);
  auto f = hn::Set(d, 0.5F);
  auto g = hn::Set(d, 0.6F);
  auto h = hn::Set(d, 0.7F);
  auto i = hn::Set(d, 0.8F);
  auto j = hn::Set(d, 0.9F);
  auto k = hn::Set(d, 1.0F);
  auto l = hn::Set(d, 1.1F);
  auto m = hn::Set(d, 1.2F);
  for (std::size_t round = 0; round < rounds; ++round) {
    a = hn::MulAdd(a, factor, term);
    b = hn::MulAdd(b, factor, term);
    c = hn::MulAdd(c, factor, term);
    e = hn::MulAdd(e, factor, term);
    f = hn::MulAdd(f, factor, term);
    g = hn::MulAdd(g, factor, term);
    h = hn::MulAdd(h, factor, term);
    i = hn::MulAdd(i, factor, term);
    j = hn::MulAdd(j, factor, term);
    k = hn::MulAdd(k, factor, term);
    l = hn::MulAdd(l, factor, term);
    m = hn::MulAdd(m, factor, term);
  }
  const auto first = hn::Add(hn::Add(hn::Add(a, b), hn::Add(c, e)), hn::Add(f, g));
  const auto second = hn::Add(hn::Add(hn::Add(h, i), hn::Add(j, k)), hn::Add(l, m));
  *result = hn::GetLane(hn::Add(first, second));
  return rounds * 12 * hn::Lanes(d);
}

std::uint64_t ReadAll(const std::uint64_t* HWY_RESTRICT from, std::size_t count) {
  const hn::CappedTag<std::uint64_t, 8> d;
  auto all = hn::Zero(d);
  for (std::size_t i = 0; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    all = hn::Or(all, hn::LoadU(d, from + i));
  }
  return hn::GetLane(all);
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::bench {
namespace {

HWY_EXPORT(MultiplyAdd);
HWY_EXPORT(ReadAll);

struct Shape {
  std::size_t rows;
  std::size_t cols;
  std::size_t tokens;
};

constexpr std::array kShapes = {
    Shape{2048, 2048, 256}, Shape{1536, 7168, 256}, Shape{2048, 2048, 24}, Shape{704, 1024, 32},
    Shape{1024, 704, 32},   Shape{2048, 2048, 2},   Shape{16384, 7168, 1}, Shape{32768, 2048, 1},
    Shape{65536, 1024, 1},  Shape{100000, 704, 1},
};

double ThreadSeconds() {
  std::timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <typename Work>
double LeastSeconds(const Work& work) {
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 15; ++i) {
    const double begin = ThreadSeconds();
    work();
    least = std::min(least, ThreadSeconds() - begin);
  }
  return least;
}

template <typename Value, typename Multiply>
void Measure(const char* name, const Shape& shape, double peak, double reading,
             const Multiply& multiply) {
  const std::size_t rows = shape.rows;
  const std::size_t cols = shape.cols;
  const std::size_t tokens = shape.tokens;
  std::mt19937 random(1);
  const auto value = [&] { return static_cast<float>(random() % 2001) / 1000 - 1; };
  std::vector<Value> weights(rows * cols);
  for (Value& weight : weights) {
    if constexpr (sizeof(Value) == 2) {
      weight = quant::EncodeBF16(value());
    } else {
      weight = value();
    }
  }
  std::vector<float> x(tokens * cols);
  for (float& element : x) element = value();
  std::vector<float> out(tokens * rows);
  const quant::Activations activations{.values = x.data(), .tokens = tokens, .stride = cols};
  const double seconds =
      LeastSeconds([&] { multiply(weights.data(), rows, cols, activations, out.data(), rows); });
  const auto elements = static_cast<double>(weights.size());
  fmt::print(
      "{:<4} {:>6} x {:<4} by {:>3}  {:>6.1f} GFLOP/s {:.2f} of the peak  {:>5.1f} GB/s {:.2f} of "
      "reading\n",
      name, rows, cols, tokens, 2e-9 * elements * static_cast<double>(tokens) / seconds,
      2 * elements * static_cast<double>(tokens) / seconds / peak,
      1e-9 * elements * sizeof(Value) / seconds, elements * sizeof(Value) / seconds / reading);
}

int Main() {
  std::size_t multiply_adds = 0;
  float result = 0;
  const double peak_seconds =
      LeastSeconds([&] { multiply_adds = HWY_DYNAMIC_DISPATCH(MultiplyAdd)(2'000'000, &result); });
  const double peak = 2 * static_cast<double>(multiply_adds) / peak_seconds;
  const std::vector<std::uint64_t> memory(std::size_t{32} << 20, 1);
  std::uint64_t read = 0;
  const double reading = static_cast<double>(memory.size() * sizeof memory[0]) / LeastSeconds([&] {
                           read |= HWY_DYNAMIC_DISPATCH(ReadAll)(memory.data(), memory.size());
                         });
  if (result == 0 || read != 1) return 1;
  fmt::print("One core: {:.1f} GFLOP/s of fused multiply-adds, reading {:.1f} GB/s\n", peak / 1e9,
             reading / 1e9);
  for (const Shape& shape : kShapes) {
    Measure<std::uint16_t>("BF16", shape, peak, reading, quant::MultiplyBF16);
    Measure<float>("F32", shape, peak, reading, quant::MultiplyF32);
  }
  return 0;
}

}  // namespace
}  // namespace dsv3::bench

int main() { return dsv3::bench::Main(); }
#endif  // HWY_ONCE
