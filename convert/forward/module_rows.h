#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "convert/forward/model_weights.h"
#include "convert/model/model_config.h"

// Which module a weight belongs to, and where another model keeps the same rows; an internal part
// of forward.h. Models may keep the experts of a layer in two tensors or each in its own, kv_b_proj
// whole or in two parts, and the head in the embedding.
namespace dsv3::convert {

// The weights of one module.
struct ModuleRows {
  std::string module;  // "model.layers.3.mlp.experts.5.up_proj"
  std::optional<std::uint64_t> layer;
  WeightRows rows;  // all of them
};

// `rows` are some rows of a tensor. `is_product`: they are multiplied, not looked up; a tied
// embedding is the head then.
ModuleRows ModuleOf(const ModelWeights& weights, const ModelConfig& config, const WeightRows& rows,
                    bool is_product);
// The layer in a module's or tensor's name.
std::optional<std::uint64_t> LayerOfModule(const std::string& module);

// Rows of another model that are rows [begin, begin + rows.rows) of what was asked for.
struct OtherRows {
  std::uint64_t begin = 0;
  WeightRows rows;
};

class RowMap {
 public:
  struct Side {
    const ModelWeights& weights;
    const ModelConfig& config;
  };
  RowMap(const Side& a, const Side& b) : a_(a), b_(b) {}

  enum class Result {
    kFound,
    kMissing,  // b has no such tensor
    kShape,    // b's has another shape
  };
  // Sets `found` to where `b` keeps the rows, in their order.
  Result Find(const WeightRows& rows, bool is_product, std::vector<OtherRows>& found) const;

 private:
  Side a_;
  Side b_;
};

}  // namespace dsv3::convert
