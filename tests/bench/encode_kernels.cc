// The part of dsv3-kernel-bench that encodes to other forms than FP8 in blocks, and re-encodes FP4
// codes as FP8, on memory of its own.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <benchmark/benchmark.h>

#include "quant/encode.h"
#include "quant/gguf_blocks.h"
#include "quant/repack.h"
#include "quant/statistics.h"
#include "tests/bench/kernel_bench.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/encode_kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.h.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace dsv3::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Reads four bytes and writes one, in whole vectors past the caches. The most that a kernel of this
// shape can reach. `size`, of what is written, is a multiple of 256, `to` is aligned to 64 bytes.
void ReadFourWriteOne(const std::uint8_t* HWY_RESTRICT from, std::size_t size,
                      std::uint8_t* HWY_RESTRICT to) {
  const hn::ScalableTag<std::uint8_t> d;
  const std::size_t lanes = hn::Lanes(d);
  for (std::size_t i = 0; i < size; i += lanes) {
    const auto first = hn::Xor(hn::LoadU(d, from + 4 * i), hn::LoadU(d, from + 4 * i + lanes));
    const auto second =
        hn::Xor(hn::LoadU(d, from + 4 * i + 2 * lanes), hn::LoadU(d, from + 4 * i + 3 * lanes));
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

HWY_EXPORT(ReadFourWriteOne);

using quant::EncodeRule;

constexpr std::uint64_t kRows = 18432;
constexpr std::size_t kElements = kCols * kRows;  // 252 MiB of BF16 values, 126 of codes
constexpr std::uint64_t kPanelRows = 128;
constexpr std::uint64_t kGroup = 32;  // of the columns that a scale of MXFP4 is for

const WeightBuffers& TheBuffers() {
  static const WeightBuffers buffers(kElements, 6);
  return buffers;
}

// The rows that this thread does, and the first of them.
struct Rows {
  explicit Rows(const benchmark::State& state)
      : count(kRows / static_cast<std::uint64_t>(state.threads()) / kPanelRows * kPanelRows),
        first(count * static_cast<std::uint64_t>(state.thread_index())) {}
  std::uint64_t count;
  std::uint64_t first;
};

void SetBytes(benchmark::State& state, std::uint64_t bytes) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) *
                          static_cast<std::int64_t>(bytes));
}

void RooflineEncodeFourBits(benchmark::State& state) {
  const WeightBuffers& buffers = TheBuffers();
  const Rows rows(state);
  const std::size_t size = rows.count * kCols / 2;
  const std::size_t first = rows.first * kCols / 2;
  for (auto _ : state) {
    HWY_DYNAMIC_DISPATCH(ReadFourWriteOne)
    (buffers.weights.get() + 4 * first, size, buffers.codes.get() + first);
  }
  SetBytes(state, 5 * size);
}

void Encode(benchmark::State& state, const EncodeRule& rule) {
  const WeightBuffers& buffers = TheBuffers();
  const Rows rows(state);
  const std::size_t codes_of_byte = 8 / quant::CodeBits(rule.codes);
  const std::size_t size = kPanelRows * kCols;
  std::vector<std::byte> scales(size * sizeof(float) / 16);
  quant::Quality quality;
  // That of the weights' largest magnitude, or a little more.
  const float tensor_scale =
      rule.tensor_scale_of == nullptr ? 1 : rule.tensor_scale_of(0.125F, quant::FloatFormat::kBF16);
  for (auto _ : state) {
    for (std::uint64_t row = rows.first; row < rows.first + rows.count; row += kPanelRows) {
      quant::EncodePanel panel;
      panel.values = std::as_bytes(std::span(buffers.weights.get() + row * kCols * 2, size * 2));
      panel.rows = kPanelRows;
      panel.cols = kCols;
      panel.tensor_scale = tensor_scale;
      const std::span codes(buffers.codes.get() + row * kCols / codes_of_byte,
                            size / codes_of_byte);
      quant::Encode(rule, panel, codes, scales, quality);
    }
  }
  benchmark::DoNotOptimize(quality);
  SetBytes(state, rows.count * kCols * 2 + rows.count * kCols / codes_of_byte);
}

// The same weights as floats, of as many rows as take as much memory.
const std::vector<float>& TheFloats() {
  static const std::vector<float> floats = [] {
    std::vector<float> values(kElements / 2);
    quant::DecodeFloats(quant::StoredFloat::kBF16,
                        std::as_bytes(std::span(TheBuffers().weights.get(), kElements)),
                        values.data());
    return values;
  }();
  return floats;
}

void EncodeGgufQ8_0(benchmark::State& state) {
  const WeightBuffers& buffers = TheBuffers();
  const std::vector<float>& floats = TheFloats();
  const std::size_t each = floats.size() / static_cast<std::size_t>(state.threads()) /
                           quant::kQ8_0Elements * quant::kQ8_0Elements;
  const std::size_t first = each * static_cast<std::size_t>(state.thread_index());
  auto* const out = reinterpret_cast<std::byte*>(buffers.codes.get()) +
                    first / quant::kQ8_0Elements * quant::kQ8_0Bytes;
  for (auto _ : state) {
    quant::EncodeQ8_0(std::span(floats).subspan(first, each), out);
  }
  SetBytes(state, each * sizeof(float) + each / quant::kQ8_0Elements * quant::kQ8_0Bytes);
}

void RepackFp4ToFp8(benchmark::State& state) {
  const WeightBuffers& buffers = TheBuffers();
  const Rows rows(state);
  for (auto _ : state) {
    for (std::uint64_t row = rows.first; row < rows.first + rows.count; ++row) {
      for (std::uint64_t col = 0; col < kCols; col += kGroup) {
        const std::size_t at = row * kCols + col;
        const auto group = static_cast<std::uint8_t>(120 + (row + col / kGroup) % 6);
        quant::E2M1ToE4M3(std::span(buffers.weights.get() + at / 2, kGroup / 2), group, 120,
                          buffers.codes.get() + at);
      }
    }
  }
  SetBytes(state, rows.count * kCols / 2 * 3);
}

BENCHMARK(RooflineEncodeFourBits)->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Encode, INT8_row, quant::LlmCompressorInt8())->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Encode, INT8_128x128, quant::BlockInt8())->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Encode, MXFP8_llm_compressor, quant::LlmCompressorMxFp8())
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Encode, MXFP8_modelopt, quant::ModelOptMxFp8())->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Encode, FourBits_INT4_1x32, quant::LlmCompressorInt4())
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Encode, FourBits_NVFP4_llm_compressor, quant::LlmCompressorNvFp4())
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Encode, FourBits_NVFP4_modelopt, quant::ModelOptNvFp4())
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Encode, FourBits_MXFP4_llm_compressor, quant::LlmCompressorMxFp4())
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Encode, FourBits_MXFP4_modelopt, quant::ModelOptMxFp4())
    ->Apply(OnOneAndAllThreads);
BENCHMARK(EncodeGgufQ8_0)->Apply(OnOneAndAllThreads);
BENCHMARK(RepackFp4ToFp8)->Apply(OnOneAndAllThreads);

}  // namespace
}  // namespace dsv3::bench
#endif  // HWY_ONCE
