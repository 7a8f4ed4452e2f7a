#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "convert/model/expected_tensors.h"
#include "convert/recipes/sample.h"
#include "convert/recipes/sample_codes.h"

// What distinguishes the presets of sample checkpoints. Internal to the sample.
namespace dsv3::convert {

struct SampleSizes {
  std::uint64_t hidden_size, intermediate_size, moe_intermediate_size;
  std::uint64_t num_hidden_layers, num_attention_heads;
  std::uint64_t n_routed_experts, n_shared_experts, num_experts_per_tok;
  std::uint64_t n_group, topk_group, first_k_dense_replace;
  // 0: plain q_proj. In V4 kv_lora_rank, qk_nope_head_dim and v_head_dim have no meaning.
  std::uint64_t q_lora_rank;
  std::uint64_t kv_lora_rank, qk_nope_head_dim, v_head_dim, vocab_size;
  std::uint32_t body_shards;  // for all but the MTP layer
  std::uint32_t mtp_shards;   // for the MTP layer
  int shard_digits;           // of the total in shard names; 0: numbers without leading zeros
};

// The model whose config and names a preset has.
enum class SampleFamily { kV3, kV32, kKimiK2, kKimiK25, kGlm5, kV2, kMoonlight, kV4 };

struct SampleTraits {
  SampleFamily family = SampleFamily::kV3;
  SampleForm linears = SampleForm::kFp8;  // attention, dense MLPs and shared experts
  SampleForm experts = SampleForm::kFp8;
  bool f32_index_norms = false;  // whether the norms of indexers are F32
  const SampleSizes* sizes = nullptr;
};

const SampleTraits& TraitsOf(SamplePreset preset);

// The form in which a preset stores a tensor.
SampleForm FormOf(const SampleTraits& traits, TensorRole role);

// The dtype of a tensor that is not quantised.
formats::Dtype PlainDtypeOf(const SampleTraits& traits, const ExpectedTensor& tensor);

// What a preset has before the names of the language model: "" or "language_model.".
std::string_view NamePrefixOf(SampleFamily family);

// The tensors beside the language model: a vision tower and its projector, where there are any.
std::vector<ExpectedTensor> TensorsBeside(const SampleTraits& traits);

}  // namespace dsv3::convert
