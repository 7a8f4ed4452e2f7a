#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "convert/open/open_model.h"
#include "convert/plan/plan.h"

namespace dsv3::convert {

// Which files of the checkpoint that is converted each output file needs, as they lie on the disk:
// those of rank shards and training checkpoints, too, of which the model's tensors are put
// together. A file that holds a copy of a tensor is needed for as long as that tensor, since the
// two are compared. Files of a second checkpoint do not count. A view of `source` and of what it
// refers to.
class SourceUse {
 public:
  explicit SourceUse(const ModelTensors& source);

  // The files, by position; those of the converted checkpoint end at files_end().
  const std::vector<SourceFile>& files() const { return stored_->files(); }
  std::uint32_t files_end() const { return stored_->files_end(); }

  // The files that an output file needs, by position, each once.
  std::vector<std::uint32_t> FilesOf(const PlannedFile& file) const;
  // For each file, how many output files need it.
  std::vector<std::uint32_t> CountNeeds(const Plan& plan) const;

 private:
  void Add(std::uint32_t stored, std::vector<std::uint32_t>& files) const;

  const Catalog* catalog_;
  const Catalog* stored_;
  std::span<const ExpressionPtr> origins_;  // of the catalog's first tensors, in `stored_`
  std::span<const std::vector<std::uint32_t>> copies_;
  std::unordered_map<std::uint32_t, std::uint32_t> group_of_;  // of copies_, by its first tensor
};

}  // namespace dsv3::convert
