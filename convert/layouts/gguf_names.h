#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

// How llama.cpp names the tensors of a model in a GGUF file; read in both directions.
namespace dsv3::convert {

struct GgufNamePair {
  std::string_view model;
  std::string_view gguf;
};

// Whether the files of an architecture (general.architecture) have these names.
bool HasGgufNames(std::string_view architecture);

// Tensors outside of layers, in the order of a file, where layers follow the first: embedding, norm
// and head.
std::span<const GgufNamePair> GgufModelNames();
// Those of a layer, behind "model.layers.N." and behind "blk.N.": tensors that a file has as the
// model has them.
std::span<const GgufNamePair> GgufLayerNames();
inline constexpr std::string_view kHeadName = "lm_head.weight";
// The matrices of routed experts, behind "model.layers.N.mlp.experts.E." and behind "blk.N.": a
// file has those of all experts of a layer in one tensor.
std::span<const GgufNamePair> GgufExpertNames();
// kv_b_proj has for each head the rows that make keys, then those that make values; a file has both
// apart, the keys' transposed. Behind "model.layers.N." and "blk.N.".
inline constexpr std::string_view kKvBName = "self_attn.kv_b_proj.weight";
inline constexpr std::string_view kGgufKeysName = "attn_k_b.weight";
inline constexpr std::string_view kGgufValuesName = "attn_v_b.weight";

// "model.layers.N." and "blk.N.".
std::string ModelLayerPrefix(std::uint64_t layer);
std::string GgufLayerPrefix(std::uint64_t layer);

// What a tensor of a file is in the model.
struct GgufMeaning {
  enum class Kind {
    kWhole,    // the tensor `name`
    kExperts,  // `name` is that of expert 0
    kKeys,     // the part that makes keys, of `name`
    kValues,
  };
  Kind kind = Kind::kWhole;
  std::string name;
};
// Nothing for a name that no tensor of the model has.
std::optional<GgufMeaning> MeaningOfGguf(std::string_view gguf);

// The name of an expert's matrix, behind "model.layers.N.": "mlp.experts.3.gate_proj.weight".
std::string ExpertMatrixName(std::uint64_t expert, std::string_view matrix);

}  // namespace dsv3::convert
