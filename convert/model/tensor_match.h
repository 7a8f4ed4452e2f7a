#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/model_config.h"
#include "formats/shape.h"

// What a catalog holds for a tensor that a config predicts. Thread-safe.
namespace dsv3::convert {

// The name of the fused tensor that holds a tensor of an expert; empty for other tensors.
std::string FusedExpertsName(std::string_view name);

// transformers may keep the experts of a layer in two tensors, [experts, rows, columns]: the tensor
// that holds the weight of this name, or kNone.
std::uint32_t FindFusedExperts(const Catalog& catalog, std::string_view name);

// The two tensors, positions in the catalog, that hold a kv_b_proj.weight as --mla split writes it;
// nothing where they are not there.
struct KvHalves {
  std::uint32_t keys = 0;    // k_b_proj.weight
  std::uint32_t values = 0;  // v_b_proj.weight
};
std::optional<KvHalves> FindKvHalves(const Catalog& catalog, std::string_view name);

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
