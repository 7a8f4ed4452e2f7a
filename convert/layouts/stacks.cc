#include "convert/layouts/stacks.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "convert/layouts/deepseek_names.h"
#include "convert/layouts/megatron_names.h"
#include "convert/layouts/mindformers_mcore_names.h"
#include "convert/layouts/mindformers_names.h"
#include "convert/layouts/mindformers_w8a8_names.h"
#include "convert/layouts/read_layout.h"
#include "convert/layouts/scaled_layout.h"
#include "convert/layouts/torchtitan_names.h"
#include "convert/layouts/transformers_names.h"
#include "convert/layouts/wrapper_prefixes.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

using Tensors = std::vector<StackTensor>;

const StackTensor* FindEnding(const Tensors& tensors, std::string_view ending) {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const StackTensor& tensor) {
    return tensor.name.ends_with(ending);
  });
  return found == tensors.end() ? nullptr : &*found;
}

constexpr std::string_view kMcoreEmbedding = "embedding.word_embeddings.weight";
constexpr std::string_view kMcoreExperts = ".mlp.experts.weight1";

bool IsMcoreV1(const Tensors& tensors) {
  const StackTensor* experts = FindEnding(tensors, kMcoreExperts);
  if (experts == nullptr) return FindEnding(tensors, ".linear_qkv.weight") != nullptr;
  // [hidden, all experts' gates and ups]; in the second version the experts are in the rows.
  const StackTensor* embedding = FindEnding(tensors, kMcoreEmbedding);
  return experts->shape.size() == 2 && embedding != nullptr && embedding->shape.size() == 2 &&
         experts->shape[0] == embedding->shape[1];
}

bool IsMcoreV2(const Tensors& tensors) { return FindEnding(tensors, kMcoreExperts) != nullptr; }

bool IsMindformersInfer(const Tensors& tensors) {
  return FindEnding(tensors, ".attention.kv2l.weight") != nullptr ||
         FindEnding(tensors, ".attention.kv2l._layer.weight") != nullptr;
}

bool IsAny(const Tensors& /*tensors*/) { return true; }

struct StackRow {
  Stack stack;
  std::string_view name;
  std::string_view embedding;  // which every checkpoint of the stack has
  // Of the rows with one embedding the first is right for which this is true.
  bool (*is_of)(const Tensors&);
  LayoutReading (*read)(const ModelConfig&, const Tensors&);
};

template <const LayoutTable& (*kTable)()>
LayoutReading ReadBy(const ModelConfig& config, const Tensors& tensors) {
  return ReadLayout(kTable(), config, tensors);
}

template <const LayoutTable& (*kTable)()>
LayoutReading ReadScaledBy(const ModelConfig& config, const Tensors& tensors) {
  return ReadScaledLayout(kTable(), config, tensors);
}

template <const LayoutTable& (*kTable)()>
LayoutReading ReadW8A8By(const ModelConfig& config, const Tensors& tensors) {
  return ReadW8A8Layout(kTable(), config, tensors);
}

constexpr std::array<StackRow, 9> kStacks = {{
    {Stack::kHuggingFace, "hf", "model.embed_tokens.weight", IsAny,
     ReadScaledBy<TransformersNames>},
    {Stack::kDeepseek, "deepseek", "embed.weight", IsAny, ReadScaledBy<DeepseekNames>},
    {Stack::kMindformersMcoreV1, "mindformers-mcore-v1", kMcoreEmbedding, IsMcoreV1,
     ReadBy<MindformersMcoreV1Names>},
    {Stack::kMindformersMcoreV2, "mindformers-mcore-v2", kMcoreEmbedding, IsMcoreV2,
     ReadBy<MindformersMcoreV2Names>},
    {Stack::kMindformersMcoreV2Contiguous, "mindformers-mcore-v2-contiguous", kMcoreEmbedding,
     IsMcoreV2, ReadBy<MindformersMcoreV2ContiguousNames>},
    {Stack::kMegatron, "megatron", kMcoreEmbedding, IsAny, ReadBy<MegatronNames>},
    {Stack::kTorchtitan, "torchtitan", "tok_embeddings.weight", IsAny, ReadBy<TorchtitanNames>},
    {Stack::kMindformersInfer, "mindformers-infer", "model.tok_embeddings.embedding_weight",
     IsMindformersInfer, ReadW8A8By<MindformersInferNames>},
    {Stack::kMindformersTrain, "mindformers-train", "model.tok_embeddings.embedding_weight", IsAny,
     ReadBy<MindformersTrainNames>},
}};

const StackRow& RowOf(Stack stack) {
  return *std::find_if(kStacks.begin(), kStacks.end(),
                       [&](const StackRow& row) { return row.stack == stack; });
}

// Whether the stack has the same names and shapes as the usual one.
bool AreAlike(Stack usual, Stack other) {
  return usual == Stack::kMindformersMcoreV2 && other == Stack::kMindformersMcoreV2Contiguous;
}

// "hf (model.embed_tokens.weight), …"
std::string KnownStacks() {
  std::vector<std::string> known;
  known.reserve(kStacks.size());
  for (const StackRow& row : kStacks) {
    known.push_back(fmt::format("{} ({})", row.name, row.embedding));
  }
  return fmt::format("{}", fmt::join(known, ", "));
}

[[noreturn]] void Fail(const std::string& tensor, std::string message) {
  throw Error(ErrorCode::kBadInput, std::move(message), {"", tensor});
}

[[noreturn]] void FailUnknown(const std::vector<StackTensor>& tensors) {
  constexpr std::size_t kShown = 3;
  if (tensors.empty()) Fail("", "the checkpoint holds no tensor; save the model's state_dict");
  for (const StackTensor& tensor : tensors) {
    if (tensor.name.find(".lora_A.") == std::string::npos) continue;
    Fail(tensor.name,
         fmt::format("tensor {} is of an adapter (LoRA of PEFT), which changes the weights beside "
                     "it; merge it into them first (merge_and_unload), and save the model",
                     QuoteForMessage(tensor.name)));
  }
  for (const StackTensor& tensor : tensors) {
    for (const StackRow& row : kStacks) {
      const std::string ending = fmt::format(".{}", row.embedding);
      if (!tensor.name.ends_with(ending)) continue;
      Fail(tensor.name,
           fmt::format("tensor {} is the embedding of {}, but {} before it is not a name that "
                       "wrappers of models have, so whose weights these are is not known; save the "
                       "state_dict of the model alone",
                       QuoteForMessage(tensor.name), row.name,
                       QuoteForMessage(tensor.name.substr(0, tensor.name.size() - ending.size()))));
    }
  }
  std::vector<std::string> seen;
  for (std::size_t i = 0; i < std::min(kShown, tensors.size()); ++i) {
    seen.push_back(QuoteForMessage(tensors[i].name));
  }
  Fail("",
       fmt::format("the checkpoint holds {} such as {}{}, but the embedding of no training stack "
                   "that is known: {}; the checkpoint is incomplete, or export it with the tools "
                   "of its stack to one of these",
                   tensors.size() == 1 ? "1 tensor" : fmt::format("{} tensors", tensors.size()),
                   fmt::join(seen, ", "), tensors.size() > kShown ? " …" : "", KnownStacks()));
}

}  // namespace

std::string_view StackName(Stack stack) { return RowOf(stack).name; }

std::optional<Stack> ParseStackName(std::string_view name) {
  for (const StackRow& row : kStacks) {
    if (row.name == name) return row.stack;
  }
  return std::nullopt;
}

std::vector<std::string_view> StackNames() {
  std::vector<std::string_view> names;
  names.reserve(kStacks.size());
  for (const StackRow& row : kStacks) names.push_back(row.name);
  return names;
}

DetectedStack DetectStack(const std::vector<StackTensor>& tensors, std::optional<Stack> wanted) {
  struct Evidence {
    DetectedStack stack;
    const std::string* name;
  };
  std::vector<Evidence> found;
  for (const StackTensor& tensor : tensors) {
    const std::string name = WithoutWrappedModules(tensor.name);
    const auto is_of = [&](const StackRow& candidate) {
      return name.ends_with(candidate.embedding) &&
             IsWrapperPrefix(
                 std::string_view(name).substr(0, name.size() - candidate.embedding.size())) &&
             candidate.is_of(tensors);
    };
    const auto usual = std::find_if(kStacks.begin(), kStacks.end(), is_of);
    // Of two stacks with one kind of names and shapes the user may know which one it is.
    const auto row = usual != kStacks.end() && wanted && AreAlike(usual->stack, *wanted)
                         ? &RowOf(*wanted)
                         : usual;
    if (row == kStacks.end()) continue;
    found.push_back(
        {{row->stack, name.substr(0, name.size() - row->embedding.size())}, &tensor.name});
  }
  if (found.empty()) FailUnknown(tensors);
  const auto is_wanted = [&](const Evidence& e) { return !wanted || e.stack.stack == *wanted; };
  const auto chosen = std::find_if(found.begin(), found.end(), is_wanted);
  if (chosen == found.end()) {
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("tensor {}: it is the embedding of {}, so the checkpoint is not "
                    "from {}; leave out --from, or say --from {}",
                    QuoteForMessage(*found.front().name), StackName(found.front().stack.stack),
                    StackName(*wanted), StackName(found.front().stack.stack)),
        {"", *found.front().name});
  }
  const auto other = std::find_if(chosen + 1, found.end(), is_wanted);
  if (other != found.end()) {
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("tensor {}: {} is an embedding, too, and which of the two belongs to the "
                    "model is not known; save one model alone",
                    QuoteForMessage(*other->name), QuoteForMessage(*chosen->name)),
        {"", *other->name});
  }
  return chosen->stack;
}

std::optional<Stack> LookAlikeOf(Stack stack) {
  for (const StackRow& row : kStacks) {
    if (AreAlike(stack, row.stack) || AreAlike(row.stack, stack)) return row.stack;
  }
  return std::nullopt;
}

LayoutReading ReadStack(const DetectedStack& stack, const ModelConfig& config,
                        const std::vector<StackTensor>& tensors) {
  std::vector<StackTensor> canonical;
  canonical.reserve(tensors.size());
  for (const StackTensor& tensor : tensors) {
    canonical.push_back({CanonicalName(tensor.name, stack.prefix), tensor.shape});
  }
  return RowOf(stack.stack).read(config, canonical);
}

const std::vector<WritableLayout>& WritableLayouts() {
  static const std::vector<WritableLayout> layouts = {
      {"hf", &TransformersNames(), {}},
      {"deepseek", &DeepseekNames(), {}},
      {"transformers-fused", &TransformersNames(), {"fused"}},
      {"mindformers-train", &MindformersTrainNames(), {}},
      {"mindformers-train-bmm", &MindformersTrainNames(), {"bmm"}},
      {"mindformers-infer", &MindformersInferNames(), {}},
      {"mindformers-mcore-v1", &MindformersMcoreV1Names(), {}},
      {"mindformers-mcore-v2", &MindformersMcoreV2Names(), {}},
      {"mindformers-mcore-v2-contiguous", &MindformersMcoreV2ContiguousNames(), {}},
  };
  return layouts;
}

}  // namespace dsv3::convert
