// The part of dsv3-kernel-bench that quantises, on memory of its own.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <benchmark/benchmark.h>

#include "quant/quantize.h"
#include "tests/bench/kernel_bench.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/quantize_kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.h.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace dsv3::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Reads two bytes and writes one, in whole vectors past the caches. The most that a kernel of this
// shape can reach. `size`, of what is written, is a multiple of 256, `to` is aligned to 64 bytes.
void ReadTwoWriteOne(const std::uint8_t* HWY_RESTRICT from, std::size_t size,
                     std::uint8_t* HWY_RESTRICT to) {
  const hn::ScalableTag<std::uint8_t> d;
  const std::size_t lanes = hn::Lanes(d);
  for (std::size_t i = 0; i < size; i += lanes) {
    const auto first = hn::LoadU(d, from + 2 * i);
    const auto second = hn::LoadU(d, from + 2 * i + lanes);
    hn::Stream(hn::Xor(first, second), d, to + i);
  }
  hwy::FlushStream();
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::bench {
namespace {

HWY_EXPORT(ReadTwoWriteOne);

using quant::BlockShape;
using quant::FloatFormat;
using quant::QuantizeFormat;
using quant::QuantizeRecipe;
using quant::ScaleFmt;

constexpr std::uint64_t kRows = 36864;
constexpr std::size_t kElements = kCols * kRows;  // 504 MiB of BF16 values, 252 of codes
constexpr std::uint64_t kPanelRows = 128;

const WeightBuffers& TheBuffers() {
  static const WeightBuffers buffers(kElements, 5);
  return buffers;
}

// The rows that this thread does, of `rows`.
std::uint64_t RowsOf(const benchmark::State& state, std::uint64_t rows) {
  return rows / static_cast<std::uint64_t>(state.threads()) / kPanelRows * kPanelRows;
}

void SetBytes(benchmark::State& state, std::uint64_t bytes) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) *
                          static_cast<std::int64_t>(bytes));
}

void RooflineQuantize(benchmark::State& state) {
  const WeightBuffers& buffers = TheBuffers();
  const std::uint64_t size = RowsOf(state, kRows) * kCols;
  const std::uint64_t first = size * static_cast<std::uint64_t>(state.thread_index());
  for (auto _ : state) {
    HWY_DYNAMIC_DISPATCH(ReadTwoWriteOne)
    (buffers.weights.get() + 2 * first, size, buffers.codes.get() + first);
  }
  SetBytes(state, 3 * size);
}

void Quantize(benchmark::State& state, FloatFormat values, const QuantizeFormat& format) {
  const WeightBuffers& buffers = TheBuffers();
  // As F32 the same bytes are half as many numbers.
  const std::size_t bytes = quant::FloatBytes(values);
  const std::uint64_t rows = RowsOf(state, kRows * 2 / bytes);
  const std::uint64_t first = rows * static_cast<std::uint64_t>(state.thread_index());
  std::vector<std::byte> scales(((kCols - 1) / format.block.cols + 1) * sizeof(float));
  quant::Quality quality;
  const std::size_t size = format.block.rows * kCols;
  for (auto _ : state) {
    for (std::uint64_t row = first; row < first + rows; row += format.block.rows) {
      const std::span panel(buffers.weights.get() + row * kCols * bytes, size * bytes);
      quant::Quantize(format, {values, std::as_bytes(panel), format.block.rows, kCols},
                      quant::Nonfinite::kReport, std::span(buffers.codes.get() + row * kCols, size),
                      scales, quality);
    }
  }
  benchmark::DoNotOptimize(quality);
  SetBytes(state, rows * kCols * (bytes + 1));
}

constexpr FloatFormat kBF16 = FloatFormat::kBF16;
constexpr FloatFormat kF32 = FloatFormat::kF32;

constexpr QuantizeFormat Format(BlockShape block, ScaleFmt fmt = ScaleFmt::kF32,
                                QuantizeRecipe recipe = QuantizeRecipe::kDeepSeek) {
  return {.recipe = recipe, .scale_fmt = fmt, .block = block};
}

BENCHMARK(RooflineQuantize)->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Quantize, 128x128, kBF16, Format({128, 128}))->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Quantize, 128x128_ue8m0, kBF16, Format({128, 128}, ScaleFmt::kUe8m0))
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Quantize, 128x128_llm_compressor, kBF16,
                  Format({128, 128}, ScaleFmt::kF32, QuantizeRecipe::kLlmCompressor))
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Quantize, 32x32, kBF16, Format({32, 32}))->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Quantize, 1x128, kBF16, Format({1, 128}))->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Quantize, row, kBF16, Format({1, kCols}))->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Quantize, 128x128_F32, kF32, Format({128, 128}))->Apply(OnOneAndAllThreads);

}  // namespace
}  // namespace dsv3::bench
#endif  // HWY_ONCE
