#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "formats/shape.h"

namespace dsv3::convert {

// The role of a tensor in the model. It decides who quantises the tensor and how it is counted.
enum class TensorRole {
  kEmbedding,
  kHead,
  kNorm,
  kAttentionLinear,  // q, kv, o projections, V3.2's indexer wq_b and wk: quantised in FP8 releases
  kMlpLinear,        // dense and shared experts, V4's e_proj and h_proj: quantised
  kExpertLinear,     // routed experts: quantised
  kRouter,           // mlp.gate.weight
  kRouterBias,       // e_score_correction_bias, always F32
  kUnquantizedLinear,  // eh_proj, indexer weights_proj, V4's compressors
  kBias,
  kF32Parameter,  // V4's attn_sink, ape and hc_*, always F32
  kExpertTable,   // V4's tid2eid: each token's experts, integers
};

bool IsQuantized(TensorRole role);  // in DeepSeek's FP8 releases

struct ExpectedTensor {
  std::string name;
  formats::Shape shape;
  TensorRole role = TensorRole::kNorm;
  std::uint32_t layer = 0;  // kNoLayer outside the layers
  bool mtp = false;         // belongs to a multi-token prediction layer
  static constexpr std::uint32_t kNoLayer = UINT32_MAX;
};

// Every tensor that a known config predicts, without scales: main layers, then the MTP layers
// (num_hidden_layers and on). Empty for an unknown model.
std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config);

// The same without strings: the views are valid during the call that gets them.
struct ExpectedTensorView {
  std::string_view name;
  std::span<const std::uint64_t> shape;
  TensorRole role = TensorRole::kNorm;
  std::uint32_t layer = 0;
  bool mtp = false;
};

// Calls `visit` for each of ExpectedTensors(config), in their order, with `prefix` before its name.
void ForEachExpected(const ModelConfig& config, std::string_view prefix,
                     const std::function<void(const ExpectedTensorView&)>& visit);

// The prefix that the catalog puts before the model's names, such as "language_model."; empty where
// there is none. Valid as long as the catalog.
std::string_view FindNamePrefix(const Catalog& catalog);

}  // namespace dsv3::convert
