#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>

#include "quant/codec.h"

// What the files of dsv3-kernel-bench share.
namespace dsv3::bench {

inline constexpr std::uint64_t kCols = 7168;  // the hidden size of DeepSeek-V3

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

inline std::unique_ptr<std::uint8_t, Free> Allocate(std::size_t bytes) {
  auto* memory = static_cast<std::uint8_t*>(std::aligned_alloc(4096, bytes));
  if (memory == nullptr) throw std::bad_alloc();
  return std::unique_ptr<std::uint8_t, Free>(memory);
}

// BF16 weights as trained ones are distributed, without a pattern that a predictor learns, and room
// for codes of one byte each.
struct WeightBuffers {
  WeightBuffers(std::size_t elements, std::uint32_t seed)
      : weights(Allocate(2 * elements)), codes(Allocate(elements)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 0.02F);
    std::vector<std::uint16_t> drawn(std::size_t{1} << 20);
    for (std::uint16_t& weight : drawn) weight = quant::EncodeBF16(normal(random));
    auto* const values = reinterpret_cast<std::uint16_t*>(weights.get());
    for (std::size_t i = 0; i < elements; ++i) {
      values[i] = drawn[(i * 7 + i / drawn.size()) % drawn.size()];
    }
    std::memset(codes.get(), 1, elements);
  }
  std::unique_ptr<std::uint8_t, Free> weights;
  std::unique_ptr<std::uint8_t, Free> codes;
};

inline void OnOneAndAllThreads(benchmark::internal::Benchmark* benchmark) {
  const int all = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  benchmark->Threads(1);
  if (all > 1) benchmark->Threads(all);
  benchmark->UseRealTime()->Iterations(3)->Repetitions(15);
}

}  // namespace dsv3::bench
