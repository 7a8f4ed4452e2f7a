#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>

#include "convert/catalog/progress.h"

namespace dsv3::convert {

// The slots of the threads that may compute at the same time. Not std::counting_semaphore: a thread
// that waits for that of libstdc++ may sleep for ever (GCC's bug 104928). Thread-safe.
class ComputeSlots {
 public:
  explicit ComputeSlots(unsigned count) : free_(count) {}

  // Waits for a free slot, and takes it.
  void Take();
  void Free();

 private:
  std::mutex mutex_;
  std::condition_variable freed_;
  unsigned free_;  // guarded by mutex_
};

// A worker holds a slot while it computes.
class ComputeSlot {
 public:
  explicit ComputeSlot(ComputeSlots& slots) : slots_(slots) { slots_.Take(); }
  ~ComputeSlot() { slots_.Free(); }
  ComputeSlot(const ComputeSlot&) = delete;
  ComputeSlot& operator=(const ComputeSlot&) = delete;

 private:
  ComputeSlots& slots_;
};

// The threads of one job, and what all of them share: a lock for the job's state, the first error,
// the stop token and the compute slots. Every function may be called from every worker at once.
class Workers {
 public:
  using Lock = std::unique_lock<std::mutex>;

  // `threads` run; at most `compute_threads` of them hold a ComputeSlot, the others wait for the
  // disk. `stop` must outlive the workers.
  Workers(unsigned threads, unsigned compute_threads, const StopToken& stop);

  // Calls `work(i)` for each i below `threads`, each on a thread of its own, the first on the
  // caller's, and waits for all of them; they may wait for each other. Where the system has no more
  // threads there are fewer calls, at least one. Throws the first error of any call. Called once.
  void Run(const std::function<void(unsigned worker)>& work);

  // Whether some call of `work` threw.
  bool failed() const noexcept { return failed_.load(std::memory_order_relaxed); }
  // Whether the job is over before its end: a worker failed, or the stop was requested.
  bool ended() const noexcept { return failed() || stop_.stopped(); }

  // Locks the job's state.
  [[nodiscard]] Lock Acquire() { return Lock(mutex_); }
  // Releases the lock until another worker calls NotifyAll or leaves `work`. May wake without a
  // reason, so the caller looks at the state and at ended() again.
  void Wait(Lock& lock) { changed_.wait(lock); }
  void NotifyAll() { changed_.notify_all(); }

  // Waits for a compute slot, which is held while the result lives.
  [[nodiscard]] ComputeSlot Compute() { return ComputeSlot(compute_); }

 private:
  const unsigned threads_;
  const StopToken& stop_;
  ComputeSlots compute_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;  // the first one; guarded by mutex_
};

}  // namespace dsv3::convert
