// The part of dsv3-kernel-bench that dequantises codes of other forms than FP8, on memory of its
// own.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include <benchmark/benchmark.h>

#include "quant/codes.h"
#include "tests/bench/kernel_bench.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/codes_kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.h.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace dsv3::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Reads each byte and writes four, in whole vectors past the caches. The most that a kernel of this
// shape can reach. `size` is a multiple of 256, `to` is aligned to 64 bytes.
void ReadOneWriteFour(const std::uint8_t* HWY_RESTRICT from, std::size_t size,
                      std::uint8_t* HWY_RESTRICT to) {
  const hn::ScalableTag<std::uint8_t> d;
  const std::size_t lanes = hn::Lanes(d);
  for (std::size_t i = 0; i < size; i += lanes) {
    const auto v = hn::LoadU(d, from + i);
    for (std::size_t part = 0; part < 4; ++part) hn::Stream(v, d, to + 4 * i + part * lanes);
  }
  hwy::FlushStream();
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::bench {
namespace {

HWY_EXPORT(ReadOneWriteFour);

using quant::BlockShape;
using quant::CodeFormat;

constexpr std::uint64_t kRows = 36864;
constexpr std::size_t kElements = kCols * kRows;             // 252 MiB of INT8, 504 of results
constexpr std::size_t kTileElements = std::size_t{4} << 20;  // what a conversion does at a time
constexpr std::size_t kSlack = 4096;

struct Buffers {
  Buffers() : in(Allocate(kElements)), out(Allocate(2 * kElements + kSlack)) {
    for (std::size_t i = 0; i < kElements; ++i) {
      in.get()[i] = static_cast<std::uint8_t>((i * 2654435761U) >> 13);
    }
    std::memset(out.get(), 1, 2 * kElements + kSlack);
  }
  std::unique_ptr<std::uint8_t, Free> in;
  std::unique_ptr<std::uint8_t, Free> out;
};

const Buffers& TheBuffers() {
  static const Buffers buffers;
  return buffers;
}

// Calls `work(begin, size)` for the tiles of this thread's elements; how many these are.
template <typename Work>
std::size_t ForEachTile(const benchmark::State& state, const Work& work) {
  const std::size_t share =
      kRows / static_cast<std::size_t>(state.threads()) * static_cast<std::size_t>(kCols);
  const std::size_t begin = share * static_cast<std::size_t>(state.thread_index());
  for (std::size_t done = 0; done < share; done += kTileElements) {
    work(begin + done, std::min(kTileElements, share - done));
  }
  return share;
}

void SetBytes(benchmark::State& state, std::size_t bytes) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) *
                          static_cast<std::int64_t>(bytes));
}

// Five bytes for two elements.
void RooflineFourBits(benchmark::State& state) {
  const Buffers& buffers = TheBuffers();
  std::size_t elements = 0;
  for (auto _ : state) {
    elements = ForEachTile(state, [&](std::size_t begin, std::size_t size) {
      HWY_DYNAMIC_DISPATCH(ReadOneWriteFour)
      (buffers.in.get() + begin / 2, size / 2, buffers.out.get() + 2 * begin);
    });
  }
  SetBytes(state, elements / 2 * 5);
}

// `offset` elements lie between a cache line's start and the first result.
void Codes(benchmark::State& state, CodeFormat format, BlockShape block, bool zeros,
           std::size_t offset) {
  const Buffers& buffers = TheBuffers();
  const std::uint64_t block_cols = (kCols - 1) / block.cols + 1;
  std::vector<float> scales(block_cols * ((kRows - 1) / block.rows + 1));
  for (std::size_t i = 0; i < scales.size(); ++i) {
    scales[i] = static_cast<float>(i % 127 + 1) * 0x1.5p-14F;
  }
  const std::vector<float> points(zeros ? scales.size() : 0, 3.0F);
  auto* const out = reinterpret_cast<std::uint16_t*>(buffers.out.get()) + offset;
  const std::size_t codes_of_byte = 8 / quant::CodeBits(format);
  quant::DequantizeCounts counts;
  std::size_t elements = 0;
  for (auto _ : state) {
    elements = ForEachTile(state, [&](std::size_t begin, std::size_t size) {
      const std::uint64_t scale = begin / kCols / block.rows * block_cols;
      quant::DequantizeSpan span;
      span.codes = std::span(buffers.in.get() + begin / codes_of_byte, size / codes_of_byte);
      span.first = begin;
      span.cols = kCols;
      span.block = block;
      span.scales = std::span(scales).subspan(scale);
      if (zeros) span.zeros = std::span(points).subspan(scale);
      quant::DequantizeToBF16(format, span, out + begin, counts);
    });
  }
  SetBytes(state, 2 * elements + elements / codes_of_byte);
}

BENCHMARK(RooflineFourBits)->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Codes, FourBits_INT4_1x32, CodeFormat::kI4Offset, BlockShape{1, 32}, false, 4)
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Codes, FourBits_INT4_1x32_zeros, CodeFormat::kI4Offset, BlockShape{1, 32}, true,
                  4)
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Codes, FourBits_INT4_1x128, CodeFormat::kI4, BlockShape{1, 128}, false, 4)
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Codes, FourBits_NVFP4_1x16, CodeFormat::kE2M1, BlockShape{1, 16}, false, 4)
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Codes, FourBits_MXFP4_1x32, CodeFormat::kE2M1, BlockShape{1, 32}, false, 4)
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Codes, INT8_row, CodeFormat::kI8, BlockShape{1, kCols}, false, 4)
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Codes, INT8_128x128, CodeFormat::kI8, BlockShape{128, 128}, false, 4)
    ->Apply(OnOneAndAllThreads);

}  // namespace
}  // namespace dsv3::bench
#endif  // HWY_ONCE
