#include "convert/stream/workers.h"

#include <cstddef>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace dsv3::convert {

Workers::Workers(unsigned threads, unsigned compute_threads, const StopToken& stop)
    : threads_(threads), stop_(stop), compute_(static_cast<std::ptrdiff_t>(compute_threads)) {}

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
