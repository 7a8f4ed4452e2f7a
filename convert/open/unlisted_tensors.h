#pragma once

#include <functional>
#include <map>
#include <string>

#include "formats/checkpoint_files.h"
#include "formats/finding.h"

namespace dsv3::convert {

// The tensors of files beside a checkpoint, and below its directory, that are no part of it.
struct UnlistedTensors {
  std::map<std::string, std::string, std::less<>> files;  // by tensor
  bool has_index = false;                                 // which leaves them out
};
UnlistedTensors FindUnlistedTensors(const formats::CheckpointFiles& files);

// Says in "missing-tensor" of `findings` which such file holds the missing tensor, and what to do;
// this takes the place of other advice, which would lose what is there.
void NameUnlistedHolders(const UnlistedTensors& unlisted, formats::Findings& findings);

// Adds to "missing-shard" and "missing-tensor" of `findings` the names of files beside the
// checkpoint that its index does not list and that hold the missing tensors, and what to do.
void NameUnlistedHolders(const formats::CheckpointFiles& files, formats::Findings& findings);

}  // namespace dsv3::convert
