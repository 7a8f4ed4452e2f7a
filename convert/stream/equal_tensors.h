#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"

namespace dsv3::convert {

// Reads tensors that several ranks hold whole, and that must be equal: each group has positions in
// `catalog`, that of the tensor that is taken first. Begins a phase of `progress` where there is
// anything to read. `threads`: 0 for all. Throws Error: kBadInput that names the tensor and both
// files where two differ in a byte, or in dtype or shape; kInterrupted; kIo.
void RequireEqualTensors(const Catalog& catalog, std::span<const std::vector<std::uint32_t>> groups,
                         unsigned threads, ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
