#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/model_config.h"
#include "formats/shape.h"

// What a catalog holds for a tensor that a config predicts. Internal to convert/model. Thread-safe.
namespace dsv3::convert {

struct TensorMatch {
  // A tensor of another shape than is predicted, or nothing in the place of one.
  struct Difference {
    std::uint32_t position = Catalog::kNone;  // of the tensor; kNone: no tensor is there
    formats::Shape shape = {};                // that is predicted
    std::string form = {};                    // of codes: its name
  };
  std::vector<std::uint32_t> held;  // positions of what is there, of whatever shape
  std::vector<Difference> differences;
};

// Looks for the tensor under its name, as codes of a form, fused with the other experts, which
// differ once, in the first one, and as the halves of kv_b_proj. `match` is overwritten.
void MatchTensor(const ModelConfig& config, const Catalog& catalog,
                 const ExpectedTensorView& expected, TensorMatch& match);

}  // namespace dsv3::convert
