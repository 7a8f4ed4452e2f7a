#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "formats/checkpoint_files.h"
#include "formats/finding.h"
#include "formats/shard_index.h"

// An internal part of structure.h and numeric.h.
namespace dsv3::convert {

// Where the tensors of shards that cannot be read, or are not there, must be thought of. They are
// in no catalog.
class UnreadableTensors {
 public:
  // `files` must outlive the object.
  explicit UnreadableTensors(const formats::CheckpointFiles& files);

  bool any() const { return any_; }

  // Whether a tensor that no header holds may be in such a shard: the index says so, or there is
  // none.
  bool MayHold(std::string_view name) const;

 private:
  const std::optional<formats::ShardIndex>& index_;
  std::vector<bool> readable_;
  bool any_ = false;
};

// Removes the findings which only say that a tensor is missing that such a shard may hold.
void RemoveBlindFindings(const UnreadableTensors& unreadable, formats::Findings& findings);

}  // namespace dsv3::convert
