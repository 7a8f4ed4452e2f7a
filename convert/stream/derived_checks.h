#pragma once

#include <cstdint>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/plan/derived_tensors.h"

namespace dsv3::convert {

// Reads the stored tensors that `tensors` (positions in the catalog that `derived` belongs to) are
// made of, each once, and compares their digests with those that are known, and those that several
// ranks hold with each other. Tensors that are not derived are left out. Begins a phase of
// `progress` where there is anything to read. Throws Error: kBadInput for the first stored tensor
// with another digest, and names it and its file, and as RequireEqualTensors does; kIo,
// kInterrupted.
void CheckDerivedTensors(const std::vector<DerivedTensors>& derived,
                         const std::vector<std::uint32_t>& tensors, unsigned threads,
                         ProgressSink& progress, const StopToken& stop);

// Compares all tensors that several ranks hold with each other; the rest of the above.
void CheckCopies(const std::vector<DerivedTensors>& derived, unsigned threads,
                 ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
