#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/finding.h"
#include "formats/safetensors.h"
#include "formats/shard_index.h"

// Whether the headers of a checkpoint's shards agree with each other and with the index.
namespace dsv3::formats {

struct CheckpointFiles;

// One shard to compare. `header` is null where the file could not be read: nothing is said about
// its tensors then.
struct ShardToCheck {
  std::string_view name;
  const SafetensorsHeader* header = nullptr;
};

// `shards[i]` is the file index.files[i]. Works in parallel. Gives tensor-not-in-shard,
// tensor-not-in-index, tensor-in-two-shards and wrong-total-size.
Findings CompareWithIndex(const ShardIndex& index, const std::vector<ShardToCheck>& shards);

// For shards without an index. Gives tensor-in-two-shards.
Findings CompareShards(const std::vector<ShardToCheck>& shards);

// Leaves of several tensors of one name the one in the shard that the index lists for it, or else
// the first, for callers that need each name once. A finding reports the others already
// (tensor-in-two-shards). Returns how many were removed.
std::uint64_t DropSecondCopies(CheckpointFiles& files);

}  // namespace dsv3::formats
