#include "convert/stream/workers.h"

#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace dsv3::convert {

void ComputeSlots::Take() {
  std::unique_lock lock(mutex_);
  freed_.wait(lock, [&] { return free_ > 0; });
  --free_;
}

void ComputeSlots::Free() {
  {
    const std::lock_guard lock(mutex_);
    ++free_;
  }
  freed_.notify_one();
}

Workers::Workers(unsigned threads, unsigned compute_threads, const StopToken& stop)
    : threads_(threads), stop_(stop), compute_(compute_threads) {}

void Workers::Run(const std::function<void(unsigned worker)>& work) {
  const auto run = [&](unsigned worker) noexcept {
    std::exception_ptr error;
    try {
      work(worker);
    } catch (...) {
      error = std::current_exception();
    }
    const Lock lock = Acquire();
    if (error && !error_) error_ = std::move(error);
    if (error_) failed_.store(true, std::memory_order_relaxed);
    // Workers that wait see that this one makes nothing more.
    NotifyAll();
  };
  {
    // Not tasks of oneTBB, which may give fewer threads than were asked for: a worker that waits
    // for the disk or for another one must not keep the others from beginning.
    std::vector<std::jthread> others;
    others.reserve(threads_);
    try {
      for (unsigned worker = 1; worker < threads_; ++worker) others.emplace_back(run, worker);
    } catch (const std::system_error&) {
      // The process may have no more threads; fewer make the same.
    }
    run(0);
  }
  if (error_) std::rethrow_exception(error_);
}

}  // namespace dsv3::convert
