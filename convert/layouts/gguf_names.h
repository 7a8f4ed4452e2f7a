#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

// How llama.cpp names the tensors of a model in a GGUF file; read in both directions.
namespace dsv3::convert {

// What becomes of a tensor in a file.
enum class GgufUse {
  kWeight,  // its values in the type that is asked for, by llama.cpp's rule
  kStored,  // V4: its values in the type that they have
  kTable,   // V4: numbers of experts
};

struct GgufNamePair {
  std::string_view model;
  std::string_view gguf;
  GgufUse use = GgufUse::kWeight;
};

// The names of some architectures.
struct GgufNames {
  // Tensors outside of layers, in the order of a file, where layers follow the first: embedding,
  // norm, head, and what else there is.
  std::span<const GgufNamePair> outside;
  // Those of a layer, behind "model.layers.N." and behind "blk.N.": tensors that a file has as the
  // model has them.
  std::span<const GgufNamePair> layer;
  // The matrices of routed experts, behind "mlp.experts.E." and behind "blk.N.": a file has those
  // of all experts of a layer in one tensor.
  std::span<const GgufNamePair> expert;
  std::string_view layers;   // "model.layers."
  std::string_view experts;  // of a layer: "mlp.experts."
  // Whether the model has kv_b_proj, which has for each head the rows that make keys, then those
  // that make values. A file has both apart, the keys' transposed.
  bool has_kv_b = false;

  // "model.layers.N." and "model.layers.N.mlp.experts.E." with the matrix's name.
  std::string LayerPrefix(std::uint64_t number) const;
  std::string ExpertName(std::uint64_t number, std::uint64_t expert_number,
                         std::string_view matrix) const;
};

inline constexpr std::string_view kHeadName = "lm_head.weight";
// Behind "model.layers.N." and "blk.N.".
inline constexpr std::string_view kKvBName = "self_attn.kv_b_proj.weight";
inline constexpr std::string_view kGgufKeysName = "attn_k_b.weight";
inline constexpr std::string_view kGgufValuesName = "attn_v_b.weight";
// Both in one, in the files of llama.cpp before it kept keys and values apart.
inline constexpr std::string_view kGgufWholeKvBName = "attn_kv_b.weight";

const GgufNames& V3GgufNames();  // deepseek2, deepseek32, glm-dsa
const GgufNames& V4GgufNames();  // deepseek4
// By general.architecture; nullptr for one whose files have other names.
const GgufNames* FindGgufNames(std::string_view architecture);

// "blk.N."
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
std::optional<GgufMeaning> MeaningOfGguf(const GgufNames& names, std::string_view gguf);

}  // namespace dsv3::convert
