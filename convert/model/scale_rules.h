#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "convert/model/scaled_weights.h"

// What a config says about the scales of FP8 weights, and how messages describe other formats.
// Internal to convert/model; FindScaledWeights uses it.
namespace dsv3::convert {

// One way in which the config lets scales lie.
struct ScaleRule {
  enum class Kind { kBlock, kRow, kTensor };
  Kind kind = Kind::kBlock;
  quant::BlockShape block;  // of kBlock
  std::string source;       // "weight_block_size [128, 128] of config.json"
};

struct ScaleRules {
  // Each rule once. Empty when no rule is known; `problem` then says why.
  std::vector<ScaleRule> rules;
  std::string problem;           // a whole message
  bool only_by_absence = false;  // the one rule is kTensor because no block size is given
  bool u8_is_e8m0 = false;       // mxfp8-quantized
};

ScaleRules ReadScaleRules(const ModelConfig& config);

// The format of a group of compressed-tensors that is none of those it is known to have; empty
// where there is none.
std::string_view UnknownFormat(const QuantizationConfig& config);

// Adds what compressed-tensors' groups of weights of a type ("float" or "int") and width say.
void AddGroupRules(const QuantizationConfig& config, std::string_view type, std::uint64_t bits,
                   ScaleRules& rules);

// The problem where the config gives no block size and a tensor has more than one scale.
inline constexpr const char* kNoBlockSize =
    "config.json: quantization_config has no weight_block_size, expected the block of the scales "
    "such as [128, 128]; restore the config.json that came with these weights";

// Sets pair.block from the rule that the scale's shape agrees with; pair.matrices to cols are set.
// Returns the problem where no rule agrees, or several rules that differ do; empty otherwise.
std::string ApplyScaleRules(const ScaleRules& rules, const CatalogTensor& weight,
                            const CatalogTensor& scale, ScaledWeight& pair);

// The message on a weight in a form that is not read as FP8; `form` is its name.
std::string DescribeOtherForm(const ModelConfig& config, const CatalogTensor& weight,
                              std::string_view form);

}  // namespace dsv3::convert
