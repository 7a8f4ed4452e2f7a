#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/job/runner.h"
#include "convert/layouts/stacks.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"
#include "convert/recipes/shared_copies.h"

// A model in another layout: the names and forms of another stack.
namespace dsv3::convert {

struct LayoutOptions {
  std::string to = {};                // a name of WritableLayouts()
  std::filesystem::path config = {};  // the model's config.json; empty: the one beside the input
  std::optional<Stack> from = std::nullopt;  // whose names the tensors have; nothing: found
  std::uint64_t shard_bytes = 0;             // of shards that are new; 0: kDefaultShardBytes
};

inline constexpr char kLayout[] = "layout";

// What a recipe makes of a model. `source` is a model whose tensors have the dtypes of the layout;
// the plan's expressions read its catalog.
struct LayoutPlan {
  OpenedModel source;
  Plan plan;  // without options and side files other than the layout's own
  std::string config;
  std::string description;           // what says how the weights are quantised; empty: nothing
  std::vector<std::string> dropped;  // scales of weights that became BF16, copies in MTP layers
  std::uint64_t converted = 0;     // tensors of the layout that have another dtype than the model's
  std::uint64_t copied = 0;        // those that are a tensor of the model as it is
  std::vector<SharedCopy> copies;  // to be compared before they are left out
  bool dequantized = false;        // whether the values of FP8 weights are made
  std::vector<std::string> joined;  // weights k_b_proj that kv_b_proj was put together of
};

// `shard_bytes` is for layouts whose shards have no sizes of their own. Throws Error (kBadInput)
// for a tensor that the layout has no name for.
LayoutPlan PlanLayout(const OpenedModel& model, const WritableLayout& layout,
                      std::uint64_t shard_bytes);

// `dsv3-convert layout`.
ConversionKind LayoutConversion(const LayoutOptions& options);

}  // namespace dsv3::convert
