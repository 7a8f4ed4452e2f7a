#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/layouts/layout_table.h"
#include "convert/layouts/layout_tensors.h"
#include "convert/model/model_config.h"

// The stacks whose names are known, how the stack of a checkpoint is recognised, and the layouts
// that can be written. Thread-safe.
namespace dsv3::convert {

enum class Stack {
  kHuggingFace,
  kDeepseek,
  kMegatron,
  kTorchtitan,
  kMindformersTrain,
  kMindformersInfer,
  kMindformersMcoreV1,
  kMindformersMcoreV2,
  kMindformersMcoreV2Contiguous,
};

// "hf", "deepseek", "megatron", "torchtitan", "mindformers-train", "mindformers-infer",
// "mindformers-mcore-v1", "mindformers-mcore-v2", "mindformers-mcore-v2-contiguous"; and the way
// back, nothing for another name.
std::string_view StackName(Stack stack);
std::optional<Stack> ParseStackName(std::string_view name);
std::vector<std::string_view> StackNames();

struct DetectedStack {
  Stack stack = Stack::kHuggingFace;
  std::string prefix;  // that wrappers put before the model's names: "module."; empty for none
};

// The stack that the names of a checkpoint's tensors are of, by that of the embedding and by
// tensors that one of several such stacks alone has; of stacks with the same names and shapes,
// `wanted` or the usual one. Throws Error (kBadInput) that says what was seen where they are of no
// known stack, of several, or of another than `wanted`.
DetectedStack DetectStack(const std::vector<StackTensor>& tensors,
                          std::optional<Stack> wanted = std::nullopt);

// The stack whose tensors have the same names and shapes as those of `stack`; nothing where there
// is none.
std::optional<Stack> LookAlikeOf(Stack stack);

// ReadLayout by the stack's table, of tensors under the names that their checkpoint gives them. The
// Errors name a tensor without what wrappers add.
LayoutReading ReadStack(const DetectedStack& stack, const ModelConfig& config,
                        const std::vector<StackTensor>& tensors);

// A layout that a model can be written in, by WriteScaledLayout.
struct WritableLayout {
  std::string_view name;  // "mindformers-train-bmm"
  const LayoutTable* table = nullptr;
  std::vector<std::string_view> variants;
};

// "hf", "deepseek", "transformers-fused", "mindformers-train", "mindformers-train-bmm",
// "mindformers-infer", "mindformers-mcore-v1", "mindformers-mcore-v2",
// "mindformers-mcore-v2-contiguous".
const std::vector<WritableLayout>& WritableLayouts();

}  // namespace dsv3::convert
