#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "convert/layouts/stacks.h"
#include "convert/model/model_config.h"
#include "convert/plan/plan.h"

namespace dsv3::convert {

// A tensor of an output layout, before it has a file.
struct LaidOutTensor {
  std::string name;
  std::optional<std::uint64_t> layer;  // of the model, MTP layers behind the main ones
  ExpressionPtr expression;
};

// Puts the tensors, which come in the layout's order, into the files that the layout's programs
// read, and adds what lists them: an index, or param_name_map.json of MindFormers' layouts.
void PlanLayoutFiles(const WritableLayout& layout, const ModelConfig& config,
                     std::vector<LaidOutTensor> tensors, std::uint64_t shard_bytes, Plan& plan);

}  // namespace dsv3::convert
