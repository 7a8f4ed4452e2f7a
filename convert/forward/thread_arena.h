#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

// An internal part of forward.h.
namespace dsv3::convert {

class ThreadArena {
 public:
  explicit ThreadArena(unsigned threads) : threads_(threads), arena_(static_cast<int>(threads)) {}

  // Calls task(i) for i in [0, count) on all threads; tasks begin in their order. Throws what a
  // task throws, and begins no more then.
  template <typename Task>
  void ForEach(std::size_t count, const Task& task) {
    const std::size_t workers = std::min<std::size_t>(count, threads_);
    std::atomic<std::size_t> next = 0;
    const auto work = [&](std::size_t /*worker*/) {
      try {
        for (std::size_t i = next++; i < count; i = next++) task(i);
      } catch (...) {
        next = count;
        throw;
      }
    };
    if (workers == 0) return;
    if (workers == 1) return work(0);
    arena_.execute(
        [&] { tbb::parallel_for(std::size_t{0}, workers, work, tbb::simple_partitioner()); });
  }

 private:
  const std::size_t threads_;
  tbb::task_arena arena_;
};

}  // namespace dsv3::convert
