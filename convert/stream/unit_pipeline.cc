#include "convert/stream/unit_pipeline.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "convert/stream/workers.h"
#include "formats/error.h"
#include "formats/io/input_file.h"

namespace dsv3::convert {
namespace {

// Threads beyond the compute threads, so that the disk always has requests.
constexpr unsigned kIoThreads = 4;
constexpr std::size_t kMaxUnitBytes = std::size_t{4} << 20;
constexpr std::size_t kMinUnitBytes = std::size_t{256} << 10;

}  // namespace

UnitResources PlanUnitPipeline(unsigned threads, std::uint64_t memory_bytes, unsigned buffers) {
  const auto unit_memory = [&](std::size_t unit_bytes) {
    return std::uint64_t{buffers} * formats::InputFile::ScratchBytes(unit_bytes);
  };
  const unsigned wanted = threads + kIoThreads;
  UnitResources resources;
  resources.unit_bytes = kMaxUnitBytes;
  while (resources.unit_bytes > kMinUnitBytes &&
         unit_memory(resources.unit_bytes) * wanted > memory_bytes) {
    resources.unit_bytes /= 2;
  }
  const std::uint64_t affordable = memory_bytes / unit_memory(resources.unit_bytes);
  resources.workers =
      static_cast<unsigned>(std::clamp<std::uint64_t>(affordable, 2, std::uint64_t{wanted}));
  return resources;
}

void RunUnitPipeline(std::size_t num_units, unsigned workers, unsigned threads,
                     const UnitStep& read, const UnitStep& compute, const StopToken& stop,
                     const UnitFollows& follows) {
  Workers crew(workers, threads, stop);
  std::atomic<std::size_t> next{0};
  std::atomic<std::size_t> computed{0};
  std::vector<bool> done(follows ? num_units : 0, false);  // guarded by the crew's lock
  // The unit before was taken before this one, by a worker that waits for an earlier one at most.
  const auto may_compute = [&](std::size_t unit) {
    if (!follows || !follows(unit)) return true;
    Workers::Lock lock = crew.Acquire();
    while (!done[unit - 1] && !crew.ended()) crew.Wait(lock);
    return !crew.ended();
  };
  crew.Run([&](unsigned worker) {
    while (!crew.ended()) {
      const std::size_t unit = next.fetch_add(1, std::memory_order_relaxed);
      if (unit >= num_units) return;
      read(unit, worker);
      if (!may_compute(unit)) return;
      {
        const ComputeSlot slot = crew.Compute();
        compute(unit, worker);
      }
      computed.fetch_add(1, std::memory_order_relaxed);
      if (!follows) continue;
      const Workers::Lock lock = crew.Acquire();
      done[unit] = true;
      crew.NotifyAll();
    }
  });
  if (computed.load(std::memory_order_relaxed) < num_units) {
    throw Error(ErrorCode::kInterrupted,
                "interrupted before everything was read; run the same command again");
  }
}

}  // namespace dsv3::convert
