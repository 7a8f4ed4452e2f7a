#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "convert/open/open_model.h"
#include "convert/plan/expression.h"
#include "convert/plan/plan.h"
#include "convert/recipes/shared_copies.h"
#include "formats/finding.h"

// The model as train-to-infer changes it, step by step, before it becomes a plan.
namespace dsv3::convert {

// A tensor of the output.
struct EditedTensor {
  std::string name;
  std::string file;  // the shard that it goes to
  ExpressionPtr expression;
  // The source tensor, a position in the catalog, that it has every byte of; kNone: it is made of
  // others.
  std::uint32_t copy_of = Catalog::kNone;
};

// What the steps made of a model.
struct ModelEdit {
  std::vector<EditedTensor> tensors;
  std::string config;  // text of config.json
  bool needs_index = false;
  // Whether every tensor goes to the file that is named, also where the model has no shards of its
  // own.
  bool names_files = false;
  // For the report: names of source tensors.
  std::vector<std::string> dropped;
  std::vector<std::string> grafted;
  std::vector<std::string> shared;  // of these, what the main model's tensors gave
  std::vector<std::string> split;
  std::vector<std::string> cast;
  std::vector<SharedCopy> copies;  // to be compared before they are left out
  // Of --mtp-from: copies that were not taken; where one differs from its main tensor, the user is
  // warned.
  std::vector<SharedCopy> left_copies;
  // How the tensors of the model that was appended to the catalog are made, where they are in no
  // file as they are; else nullptr.
  std::shared_ptr<const AssembledModel> grafted_from;
  formats::Findings warnings;
};

// The model as it is: every tensor in its shard.
ModelEdit BeginEdit(const OpenedModel& model);

// The files of the edited model. A shard whose tensors are all as they were keeps every byte, and
// says so (PlannedFile::same_bytes_as); a shard that lost all of its tensors is not written. Of a
// model without shards of its own the tensors go into shards of at most `shard_bytes`. Takes the
// tensors out of `edit`, and fills all of the plan but its name, options and side files.
Plan PlanEdit(const OpenedModel& model, ModelEdit& edit, std::uint64_t shard_bytes);

}  // namespace dsv3::convert
