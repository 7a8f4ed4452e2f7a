#pragma once

#include <string>
#include <vector>

#include "convert/model/forward_config.h"
#include "convert/model/model_config.h"

// Fields of config.json by which two models compute otherwise; an internal part of forward.h.
// Dimensions that show in the shapes of tensors are not among them. Pure functions.
namespace dsv3::convert {

// Fields that decide which tensors a model has.
std::vector<std::string> StructureDifferences(const ModelConfig& a, const ModelConfig& b);
// Of the attention, without attention_bias.
std::vector<std::string> AttentionDifferences(const ModelConfig& a, const ForwardConfig& a_forward,
                                              const ModelConfig& b, const ForwardConfig& b_forward);
std::vector<std::string> RouterDifferences(const ModelConfig& a, const ForwardConfig& a_forward,
                                           const ModelConfig& b, const ForwardConfig& b_forward);

// Throws Error (kBadInput) for models that cannot be compared: other vocabulary, hidden size or
// number of layers.
void RequireComparable(const ModelConfig& a, const ModelConfig& b);

}  // namespace dsv3::convert
