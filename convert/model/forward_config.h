#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/model/model_config.h"

// What config.json says of the arithmetic of a model's forward pass; model_config.h has the
// dimensions. Formulas: DeepSeek-V2 and V3 papers (arXiv 2405.04434, 2412.19437), YaRN (arXiv
// 2309.00071), and the classes of transformers that run these models.
namespace dsv3::convert {

// YaRN, as rope_scaling or rope_parameters describe it.
struct YarnScaling {
  double factor = 1;
  double original_positions = 4096;
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;  // whether the correction range is rounded to whole dimensions
  // Of these ForwardConfig has rotary_factor and softmax_scale. 0: absent.
  double mscale = 0;
  double mscale_all_dim = 0;
  std::optional<double> attention_factor;
};

// Which groups of experts a router keeps before it takes the top experts.
enum class GroupScore {
  kNone,    // all
  kMax,     // by the largest score of a group
  kTopTwo,  // by the sum of its two largest scores
};

struct ForwardConfig {
  double rms_norm_eps = 1e-6;  // of all norms but those of the latents
  double rope_theta = 10000;
  std::optional<YarnScaling> yarn;
  // RoPE turns neighbouring dimensions; otherwise dimension i and i + half.
  bool rope_pairs = true;
  double rotary_factor = 1;     // that cos and sin are multiplied by
  double softmax_scale = 1;     // that scores are multiplied by
  bool softmax_router = false;  // V2; otherwise sigmoid
  GroupScore group_score = GroupScore::kNone;
  std::uint64_t topk_group = 1;
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1;
  std::uint64_t index_topk = 0;   // keys that an indexer keeps; 0: there is none
  bool index_rope_pairs = false;  // GLM-5; V3.2 turns halves
};

// Norms of the latents (q_a_layernorm, kv_a_layernorm) and the indexer's LayerNorm, whatever the
// config says.
inline constexpr double kLatentNormEps = 1e-6;

// `config` is what ParseModelConfig made of the same text. Throws Error (kBadInput) that names the
// field, for a model_type without a known forward pass and for a value that the forward pass does
// not do. `file` is the name for errors.
ForwardConfig ParseForwardConfig(std::string_view text, const ModelConfig& config,
                                 const std::string& file);

// Frequencies of the rotation, radians per position, for `dims` dimensions: dims / 2 of them.
std::vector<double> RotaryFrequencies(const ForwardConfig& config, std::uint64_t dims);

}  // namespace dsv3::convert
