#pragma once

#include <cstdint>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/plan/derived_tensors.h"

namespace dsv3::convert {

// Reads the stored tensors that `tensors` (positions in the catalog that `derived` belongs to) are
// made of, each once, and compares their digests with those that are known. Tensors that are not
// derived are left out. Begins a phase of `progress` where there is anything to read. Throws Error:
// kBadInput for the first stored tensor with another digest, and names it and its file; kIo,
// kInterrupted.
void CheckDerivedTensors(const std::vector<DerivedTensors>& derived,
                         const std::vector<std::uint32_t>& tensors, unsigned threads,
                         ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
