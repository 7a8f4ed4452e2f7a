#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "convert/catalog/progress.h"

namespace dsv3::convert {

// How many units of work are under way at once, and how large they may be.
struct UnitResources {
  unsigned workers = 1;
  std::size_t unit_bytes = 0;  // what one unit may read
};

// Workers for `threads` compute threads and some that wait for the disk, so that the buffers of
// all of them, each `buffers` times a unit, stay below `memory_bytes` where that allows for two
// units of 256 KiB.
UnitResources PlanUnitPipeline(unsigned threads, std::uint64_t memory_bytes, unsigned buffers);

// One step of a unit; `worker` < UnitResources::workers says which worker's buffers to use.
using UnitStep = std::function<void(std::size_t unit, unsigned worker)>;

// Whether a unit is computed only after the unit before it.
using UnitFollows = std::function<bool(std::size_t unit)>;

// Calls `read` and then `compute` for each unit below `num_units`, in about their order, from
// several threads at once, each worker one unit at a time. At most `threads` workers compute at the
// same time; the others read. `follows` may be empty. Throws the first error of any thread,
// kInterrupted when `stop` was requested before all units were done.
void RunUnitPipeline(std::size_t num_units, unsigned workers, unsigned threads,
                     const UnitStep& read, const UnitStep& compute, const StopToken& stop,
                     const UnitFollows& follows = {});

}  // namespace dsv3::convert
