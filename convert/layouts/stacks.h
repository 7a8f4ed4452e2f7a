#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/layouts/layout_table.h"
#include "convert/layouts/layout_tensors.h"
#include "convert/model/model_config.h"

// The training stacks whose names are known, and how a checkpoint's stack is recognised.
namespace dsv3::convert {

enum class Stack { kHuggingFace, kMegatron, kTorchtitan };

// "hf", "megatron", "torchtitan"; and the way back, nothing for another name.
std::string_view StackName(Stack stack);
std::optional<Stack> ParseStackName(std::string_view name);
std::vector<std::string_view> StackNames();

struct DetectedStack {
  Stack stack = Stack::kHuggingFace;
  std::string prefix;  // that wrappers put before the model's names: "module."; empty for none
};

// The stack that the names of a checkpoint's tensors are of, by that of the embedding. Throws Error
// (kBadInput) that says what was seen where they are of no known stack, of several, or of another
// than `wanted`.
DetectedStack DetectStack(const std::vector<StackTensor>& tensors,
                          std::optional<Stack> wanted = std::nullopt);

// ReadLayout by the stack's table, of tensors under the names that their checkpoint gives them. The
// Errors name a tensor without what wrappers add.
LayoutReading ReadStack(const DetectedStack& stack, const ModelConfig& config,
                        const std::vector<StackTensor>& tensors);

}  // namespace dsv3::convert
