#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>

#include <benchmark/benchmark.h>

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

inline void OnOneAndAllThreads(benchmark::internal::Benchmark* benchmark) {
  const int all = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  benchmark->Threads(1);
  if (all > 1) benchmark->Threads(all);
  benchmark->UseRealTime()->Iterations(3)->Repetitions(15);
}

}  // namespace dsv3::bench
