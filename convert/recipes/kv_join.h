#pragma once

#include <optional>
#include <string>
#include <vector>

#include "convert/open/open_model.h"
#include "convert/plan/planned_file.h"
#include "convert/recipes/shared_copies.h"

namespace dsv3::convert {

// The tensors of a model with kv_b_proj in place of the k_b_proj and v_b_proj that --mla split
// (mla_edit.h) makes of it: byte for byte what was split.
struct JoinedKvB {
  NamedExpressions tensors;         // all of the model's, over those of its catalog
  std::string config;               // whose lists of modules name kv_b_proj
  std::vector<std::string> joined;  // the weights
  // Scales of whole weights, of which kv_b_proj takes one for both halves: these must be equal.
  std::vector<SharedCopy> equal;
};

// Nothing where the model has no k_b_proj. Throws Error (kBadInput): a model whose sizes of heads
// are not known; a half without the other one, or beside kv_b_proj; rows that are not those of all
// heads; a row of scales for rows of several heads, or of a part of one's.
std::optional<JoinedKvB> JoinKvB(const OpenedModel& model);

}  // namespace dsv3::convert
