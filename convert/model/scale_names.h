#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// How the tensors that hold the scales of weights are called. No other file knows the endings.
// All functions are pure and thread-safe.
namespace dsv3::convert {

// How the scale of a weight X is called.
enum class ScaleNaming {
  kScaleInv,     // X_scale_inv: DeepSeek up to V3.2, transformers
  kWeightScale,  // X_scale: compressed-tensors
  kScale,        // Y.scale for X = Y.weight: DeepSeek V4
};

inline constexpr std::array kScaleNamings = {ScaleNaming::kScaleInv, ScaleNaming::kWeightScale,
                                             ScaleNaming::kScale};

// The name of a weight's scale; X_scale where kScale has none, as X does not end in ".weight".
std::string ScaleNameOf(std::string_view weight, ScaleNaming naming);

// All names that the scale of a weight can have, in the order of kScaleNamings.
std::vector<std::string> ScaleNamesOf(std::string_view weight);

// A tensor's name read as that of a scale.
struct ParsedScaleName {
  ScaleNaming naming = ScaleNaming::kScaleInv;
  std::string weight;  // the name of its weight
};
// Nothing where the name does not end like a scale's. Whether there is such a weight, and so
// whether the tensor is a scale at all, the name cannot say.
std::optional<ParsedScaleName> ParseScaleName(std::string_view name);

// The name of the weight that codes make: that of the codes where it ends in ".weight", else
// "….weight" for "….weight_packed".
std::string WeightNameOf(std::string_view codes);

// "….weight_packed" for "….weight".
std::string PackedNameOf(std::string_view weight);

// The names that the codes of a scale's weight can have in any form, packed codes and second scales
// included; empty where the name does not end like a scale's.
std::vector<std::string> CodeNamesOf(std::string_view scale);

}  // namespace dsv3::convert
