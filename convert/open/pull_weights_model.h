#pragma once

#include <filesystem>

#include "convert/open/open_model.h"

namespace dsv3::convert {

// Whether a directory holds weight deltas (pull_weights.h): its index says so.
bool IsPullDirectory(const std::filesystem::path& input);

// The part of OpenModel for such a directory: the model of OpenOptions::base in whose tensors the
// deltas change bytes, with its config, side files and shards. AssembledModel::checksums has what
// the tensors that changed must be. Throws Error as OpenModel does for the base, kUsage where none
// is given, and kBadInput for an index that cannot be read, files that it does not describe, a
// tensor that the base does not have, a base that holds differences itself, or that has no shards.
OpenedModel OpenPullWeights(const std::filesystem::path& input, const OpenOptions& options);

}  // namespace dsv3::convert
