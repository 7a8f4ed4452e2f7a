#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/model/expected_tensors.h"
#include "convert/model/scaled_weights.h"
#include "convert/parallel/slicing.h"
#include "formats/error.h"
#include "tests/convert/model/configs.h"

// A model without bytes: the tensors that a config predicts.
namespace dsv3::convert::testing {

struct ModelTensors {
  ModelConfig config;
  Catalog catalog{{}, {}};
  std::vector<ScaledWeight> scaled;

  std::uint32_t Find(const std::string& name) const { return catalog.Find(name); }
  const formats::Shape& ShapeOf(std::uint32_t tensor) const {
    return catalog.tensors()[tensor].shape;
  }
};

// What a test changes before the catalog is made.
using EditTensors = std::function<void(std::vector<CatalogTensor>&)>;

// In BF16, or in FP8 with F32 scales in the config's blocks where the family quantises.
inline ModelTensors MakeModel(const nlohmann::json& json, const EditTensors& edit = {},
                              const std::string& prefix = "") {
  ModelTensors model;
  model.config = ParseModelConfig(json.dump(), "config.json");
  std::vector<CatalogTensor> tensors;
  ForEachExpected(model.config, prefix, [&](const ExpectedTensorView& expected) {
    CatalogTensor tensor;
    tensor.name = expected.name;
    tensor.shape.assign(expected.shape.begin(), expected.shape.end());
    tensor.dtype =
        expected.role == TensorRole::kRouterBias ? formats::Dtype::kF32 : formats::Dtype::kBF16;
    const bool fp8 = model.config.quantization && IsQuantized(expected.role);
    if (fp8) tensor.dtype = formats::Dtype::kF8E4M3;
    tensors.push_back(tensor);
    if (!fp8) return;
    const quant::BlockShape block = *model.config.quantization->weight_block_size;
    tensor.name += "_scale_inv";
    tensor.dtype = formats::Dtype::kF32;
    tensor.shape = {(tensor.shape[0] + block.rows - 1) / block.rows,
                    (tensor.shape[1] + block.cols - 1) / block.cols};
    tensors.push_back(tensor);
  });
  if (edit) edit(tensors);
  SourceFile file;
  file.name = "model.safetensors";
  model.catalog = Catalog({file}, std::move(tensors));
  model.scaled = FindScaledWeights(model.catalog, model.config).pairs;
  return model;
}

inline nlohmann::json WithoutFp8(nlohmann::json json) {
  json.erase("quantization_config");
  return json;
}

// As V3, with few and small modules that all divide by 8.
inline nlohmann::json DivisibleConfig() {
  nlohmann::json config = SmallConfig();
  config.update({{"vocab_size", 130},
                 {"hidden_size", 24},
                 {"intermediate_size", 96},
                 {"moe_intermediate_size", 128},
                 {"num_hidden_layers", 5},
                 {"num_attention_heads", 8},
                 {"n_routed_experts", 8},
                 {"q_lora_rank", 12},
                 {"kv_lora_rank", 20},
                 {"qk_nope_head_dim", 8},
                 {"qk_rope_head_dim", 4},
                 {"v_head_dim", 8}});
  config["quantization_config"]["weight_block_size"] = {4, 4};
  return config;
}

// V3's modules in fewer layers with fewer experts.
inline nlohmann::json ShortV3Config() {
  nlohmann::json config = V3Config();
  config.update({{"num_hidden_layers", 5}, {"n_routed_experts", 16}});
  return config;
}

inline Slicing SliceModel(const ModelTensors& model, const Topology& topology,
                          const SlicingOptions& options = {}) {
  return PlanSlicing(model.catalog, model.config, model.scaled, topology, options);
}

inline Topology MakeTopology(const ModelTensors& model, std::uint64_t tp, std::uint64_t ep = 1) {
  ParallelOptions options;
  options.tp = tp;
  options.ep = ep;
  return PlanTopology(options, model.config);
}

// The error that slicing ends with.
inline Error SlicingError(const ModelTensors& model, const Topology& topology,
                          const SlicingOptions& options = {}) {
  try {
    SliceModel(model, topology, options);
  } catch (const Error& error) {
    return error;
  }
  return {ErrorCode::kInternal, "no error"};
}

inline std::optional<ExpertPlacement> PlacementFor(const ModelTensors& model,
                                                   const Topology& topology) {
  return PlacementOf({}, topology, model.config);
}

// The tensor of this name among the sliced ones, or nullptr.
inline const SlicedTensor* FindSliced(const Slicing& slicing, const ModelTensors& model,
                                      const std::string& name) {
  const std::uint32_t position = model.Find(name);
  for (const SlicedTensor& tensor : slicing.tensors) {
    if (tensor.tensor == position) return &tensor;
  }
  return nullptr;
}

// Every element of every rank's FP8 weight must find, in the blocks that the ranks' config will
// tell, a scale that comes from the element's own block in the source.
inline void CheckScales(const ModelTensors& model, const Slicing& slicing) {
  std::map<std::uint32_t, const SlicedTensor*> by_tensor;
  for (const SlicedTensor& sliced : slicing.tensors) by_tensor[sliced.tensor] = &sliced;
  for (const ScaledWeight& pair : model.scaled) {
    SCOPED_TRACE(model.catalog.tensors()[pair.weight].name);
    ASSERT_TRUE(by_tensor.contains(pair.weight));
    const SlicedTensor& weight = *by_tensor.at(pair.weight);
    ASSERT_EQ(by_tensor.contains(pair.scale), !weight.to_bf16);
    if (weight.to_bf16) continue;
    const SlicedTensor& scale = *by_tensor.at(pair.scale);
    const quant::BlockShape from = pair.block;
    const quant::BlockShape to = slicing.recut_block.value_or(from);
    for (std::uint64_t part = 0; part < weight.ways; ++part) {
      const Box box = BoxOf(weight, part);
      const Box scales = BoxOf(scale, scale.ways == 1 ? 0 : part);
      ASSERT_EQ(scales.rows(), (box.rows() + to.rows - 1) / to.rows);
      ASSERT_EQ(scales.cols(), (box.cols() + to.cols - 1) / to.cols);
      for (std::uint64_t row = 0; row < box.rows(); ++row) {
        const std::uint64_t first_row = (scales.row_begin + row / to.rows) * to.rows;
        ASSERT_EQ(first_row / from.rows, (box.row_begin + row) / from.rows);
      }
      for (std::uint64_t col = 0; col < box.cols(); ++col) {
        const std::uint64_t first_col = (scales.col_begin + col / to.cols) * to.cols;
        ASSERT_EQ(first_col / from.cols, (box.col_begin + col) / from.cols);
      }
    }
  }
}

}  // namespace dsv3::convert::testing
