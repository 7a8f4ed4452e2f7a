#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/open/open_model.h"

namespace dsv3::convert {

// A tensor of an MTP layer that a form does not hold, since it is a copy of one of the main model:
// positions in the model's catalog.
struct SharedCopy {
  std::uint32_t copy = 0;
  std::uint32_t main = 0;
};

// Whether all files are there that hold bytes of a tensor: a run may have freed some.
bool AreFilesThere(const ModelTensors& tensors, std::uint32_t tensor);

// Where the bytes of the two first differ; nothing where they are equal, and where a file of either
// is no longer there. A copy of another dtype or shape differs at 0. `appended` as TensorsOf takes
// it.
std::optional<std::uint64_t> FindDifference(const OpenedModel& model, const SharedCopy& pair,
                                            const StopToken& stop,
                                            const AssembledModel* appended = nullptr);

// Reads both of each and compares their bytes. Those of files that are no longer there were
// compared before these were freed. Throws Error (kBadInput), naming the copy, where they differ;
// kIo, kInterrupted.
void RequireEqualCopies(const OpenedModel& model, const std::vector<SharedCopy>& copies,
                        const StopToken& stop);

}  // namespace dsv3::convert
