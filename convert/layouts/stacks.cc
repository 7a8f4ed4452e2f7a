#include "convert/layouts/stacks.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "convert/layouts/megatron_names.h"
#include "convert/layouts/read_layout.h"
#include "convert/layouts/torchtitan_names.h"
#include "convert/layouts/transformers_names.h"
#include "convert/layouts/wrapper_prefixes.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

struct StackRow {
  Stack stack;
  std::string_view name;
  std::string_view embedding;  // which every checkpoint of the stack has
  LayoutReading (*read)(const ModelConfig&, const std::vector<StackTensor>&);
};

template <const LayoutTable& (*kTable)()>
LayoutReading ReadBy(const ModelConfig& config, const std::vector<StackTensor>& tensors) {
  return ReadLayout(kTable(), config, tensors);
}

constexpr std::array<StackRow, 3> kStacks = {{
    {Stack::kHuggingFace, "hf", "model.embed_tokens.weight", ReadTransformersNames},
    {Stack::kMegatron, "megatron", "embedding.word_embeddings.weight", ReadBy<MegatronNames>},
    {Stack::kTorchtitan, "torchtitan", "tok_embeddings.weight", ReadBy<TorchtitanNames>},
}};

const StackRow& RowOf(Stack stack) {
  return *std::find_if(kStacks.begin(), kStacks.end(),
                       [&](const StackRow& row) { return row.stack == stack; });
}

// "hf (model.embed_tokens.weight), …"
std::string KnownStacks() {
  std::vector<std::string> known;
  for (const StackRow& row : kStacks)
    known.push_back(fmt::format("{} ({})", row.name, row.embedding));
  return fmt::format("{}", fmt::join(known, ", "));
}

[[noreturn]] void FailUnknown(const std::vector<StackTensor>& tensors) {
  constexpr std::size_t kShown = 3;
  std::vector<std::string> seen;
  for (std::size_t i = 0; i < std::min(kShown, tensors.size()); ++i) {
    seen.push_back(QuoteForMessage(tensors[i].name));
  }
  throw Error(
      ErrorCode::kBadInput,
      fmt::format(
          "the checkpoint holds {} tensors{}{}{}, but the embedding of no training stack that is "
          "known: {}; the checkpoint is incomplete, or export it with the tools of its "
          "stack to one of these",
          tensors.size(), seen.empty() ? "" : " such as ", fmt::join(seen, ", "),
          tensors.size() > kShown ? " …" : "", KnownStacks()));
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
    for (const StackRow& row : kStacks) {
      if (!name.ends_with(row.embedding)) continue;
      const std::string prefix = name.substr(0, name.size() - row.embedding.size());
      if (!IsWrapperPrefix(prefix)) continue;
      found.push_back({{row.stack, prefix}, &tensor.name});
    }
  }
  if (found.empty()) FailUnknown(tensors);
  const auto is_wanted = [&](const Evidence& e) { return !wanted || e.stack.stack == *wanted; };
  const auto chosen = std::find_if(found.begin(), found.end(), is_wanted);
  if (chosen == found.end()) {
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("tensor {}: it has the name that {} gives to the embedding, so the "
                    "checkpoint is not from {}; leave out --from, or say --from {}",
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

LayoutReading ReadStack(const DetectedStack& stack, const ModelConfig& config,
                        const std::vector<StackTensor>& tensors) {
  std::vector<StackTensor> canonical;
  canonical.reserve(tensors.size());
  for (const StackTensor& tensor : tensors) {
    canonical.push_back({CanonicalName(tensor.name, stack.prefix), tensor.shape});
  }
  return RowOf(stack.stack).read(config, canonical);
}

}  // namespace dsv3::convert
