#include "convert/stream/workers.h"

#include <tbb/global_control.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>

namespace dsv3::convert {

void RunWorkers(unsigned workers, const std::function<void(unsigned worker)>& work) {
  // There are more workers than processors, since some wait for the disk. oneTBB needs to know
  // their number.
  const tbb::global_control parallelism(tbb::global_control::max_allowed_parallelism, workers + 1);
  tbb::task_arena arena(static_cast<int>(workers));
  arena.execute([&] {
    tbb::task_group group;
    for (unsigned worker = 0; worker < workers; ++worker) {
      group.run([&work, worker] { work(worker); });
    }
    group.wait();
  });
}

}  // namespace dsv3::convert
