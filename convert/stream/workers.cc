#include "convert/stream/workers.h"

#include <cstddef>

#include <tbb/global_control.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>

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
  // There are more workers than processors, since some wait for the disk. oneTBB needs to know
  // their number.
  const tbb::global_control parallelism(tbb::global_control::max_allowed_parallelism, threads_ + 1);
  tbb::task_arena arena(static_cast<int>(threads_));
  arena.execute([&] {
    tbb::task_group group;
    for (unsigned worker = 0; worker < threads_; ++worker) {
      group.run([&run, worker] { run(worker); });
    }
    group.wait();
  });
  if (error_) std::rethrow_exception(error_);
}

}  // namespace dsv3::convert
