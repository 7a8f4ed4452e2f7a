#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/plan/derived_tensors.h"

namespace dsv3::convert {

// Makes the derived tensors whose checksums are known, and compares these; of `tensors`, positions
// in the catalog, or of all where that is nothing. Throws Error: kBadInput, naming the tensor, for
// another checksum; as reading does; kInterrupted.
void CheckValues(const std::vector<DerivedTensors>& derived,
                 const std::optional<std::vector<std::uint32_t>>& tensors, unsigned threads,
                 ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
