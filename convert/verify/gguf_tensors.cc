#include "convert/verify/gguf_tensors.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "convert/catalog/name_pattern.h"
#include "convert/layouts/gguf_names.h"
#include "convert/model/expected_tensors.h"
#include "convert/open/gguf_config.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Severity;
using formats::Shape;

constexpr std::size_t kNamed = 4;  // missing tensors; of more, patterns
constexpr std::string_view kAdvice = "take the file from where it is whole, or make it again";

class TensorJudge {
 public:
  explicit TensorJudge(const OpenedModel& model)
      : catalog_(model.catalog),
        gguf_(*model.gguf),
        file_(gguf_.stored.files().front().name),
        architecture_(GgufArchitectureOf(gguf_)) {}

  formats::Findings Run() {
    const GgufConfig read = ReadGgufConfig(gguf_);
    if (!read.missing.empty()) {
      const bool one = read.missing.size() == 1;
      Add(Severity::kWarning, "missing-key", "",
          fmt::format("{}: the {} {} {} missing, so which tensors the model has is not known, and "
                      "llama.cpp may not load it; {}",
                      formats::ShownPath(file_), one ? "key" : "keys",
                      fmt::join(read.missing, ", "), one ? "is" : "are", kAdvice));
    } else if (!read.problem.empty()) {
      Add(Severity::kError, "bad-key", "",
          fmt::format("{}: the keys are those of no model: {}; {}", formats::ShownPath(file_),
                      read.problem, kAdvice));
    }
    if (read.config) {
      names_ = FindGgufNames(architecture_);
      config_ = &*read.config;
      FindParts();
      ForEachExpected(*config_, "", [&](const ExpectedTensorView& expected) { Judge(expected); });
      JudgeMissing();
      if (config_->tie_word_embeddings) JudgeHead();
    }
    return std::move(findings_);
  }

 private:
  void Add(Severity severity, std::string_view kind, const std::string& tensor, std::string message,
           const std::string& file = {}) {
    findings_.push_back(
        {severity, std::string(kind), file.empty() ? file_ : file, tensor, std::move(message)});
  }

  bool HasLayer(std::uint64_t layer) const {
    const std::string prefix = GgufLayerPrefix(layer);
    return std::any_of(
        gguf_.stored.tensors().begin(), gguf_.stored.tensors().end(),
        [&](const CatalogTensor& tensor) { return tensor.name.starts_with(prefix); });
  }

  // Where the keys say that there are MTP layers, these may be in a file of their own, or the other
  // layers.
  void FindParts() {
    if (config_->num_nextn_predict_layers == 0) return;
    has_mtp_ = HasLayer(config_->num_hidden_layers);
    has_main_ = !has_mtp_ || HasLayer(0);
  }

  void Judge(const ExpectedTensorView& expected) {
    if (expected.layer != ExpectedTensor::kNoLayer && !(expected.mtp ? has_mtp_ : has_main_))
      return;
    const std::uint32_t position = catalog_.Find(expected.name);
    const Shape shape(expected.shape.begin(), expected.shape.end());
    if (position != Catalog::kNone && catalog_.tensors()[position].shape == shape) return;
    if (names_->has_kv_b && expected.name.ends_with(kKvBName)) return JudgeKvB(expected.layer);
    std::string name = NameOf(expected);
    if (expected.role != TensorRole::kExpertLinear) return JudgeStored(std::move(name), shape);
    Shape stack = {config_->n_routed_experts};
    stack.insert(stack.end(), shape.begin(), shape.end());
    JudgeStored(std::move(name), stack);
  }

  // The keys and the values; in files of llama.cpp before it kept these apart both in one.
  void JudgeKvB(std::uint64_t layer) {
    const std::string prefix = GgufLayerPrefix(layer);
    const std::uint64_t heads = config_->num_attention_heads;
    const std::uint64_t keys = config_->qk_nope_head_dim;
    const std::uint64_t values = config_->v_head_dim;
    const std::uint64_t rank = config_->kv_lora_rank;
    const std::string whole = prefix + std::string(kGgufWholeKvBName);
    if (gguf_.stored.Find(whole) != Catalog::kNone) {
      return JudgeStored(whole, {heads * (keys + values), rank});
    }
    JudgeStored(prefix + std::string(kGgufKeysName), {heads, rank, keys});
    JudgeStored(prefix + std::string(kGgufValuesName), {heads, values, rank});
  }

  // Of a stack once, however many of its experts are wrong.
  void JudgeStored(std::string name, const Shape& shape) {
    const std::uint32_t stored = gguf_.stored.Find(name);
    if (stored != Catalog::kNone && gguf_.held[stored].shape == shape) return;
    if (!judged_.insert(name).second) return;
    if (stored == Catalog::kNone) {
      if (!IsInGateUp(name, shape)) missing_.push_back(std::move(name));
      return;
    }
    const std::string& file = gguf_.stored.files()[gguf_.stored.tensors()[stored].extent.file].name;
    Add(Severity::kError, "wrong-shape", name,
        fmt::format("{}: tensor {} has shape {}, and the keys ({}) predict {}; the keys are those "
                    "of another model, or the file is damaged: {}",
                    formats::ShownPath(file), QuoteForMessage(name),
                    formats::ShapeToString(gguf_.held[stored].shape), architecture_,
                    formats::ShapeToString(shape), kAdvice),
        file);
  }

  // Whether a stack lies with another one: llama.cpp's converter can write gate and up in one
  // tensor.
  bool IsInGateUp(std::string_view name, const Shape& shape) {
    for (const std::string_view stack : {"ffn_gate_exps.weight", "ffn_up_exps.weight"}) {
      if (!name.ends_with(stack)) continue;
      const std::string both =
          std::string(name.substr(0, name.size() - stack.size())) + "ffn_gate_up_exps.weight";
      if (gguf_.stored.Find(both) == Catalog::kNone) return false;
      JudgeStored(both, {shape[0], 2 * shape[1], shape[2]});
      return true;
    }
    return false;
  }

  // The file's name for a tensor of the model, of an expert that of the stack.
  std::string NameOf(const ExpectedTensorView& expected) const {
    const std::string_view name = expected.name;
    const auto name_in = [&](std::span<const GgufNamePair> pairs, std::string_view part) {
      const auto found = std::find_if(pairs.begin(), pairs.end(),
                                      [&](const GgufNamePair& pair) { return pair.model == part; });
      return found == pairs.end() ? std::string_view() : found->gguf;
    };
    if (expected.layer == ExpectedTensor::kNoLayer) {
      return std::string(name_in(names_->outside, name));
    }
    const std::string of = names_->LayerPrefix(expected.layer);
    const std::string_view part = name.substr(std::min(of.size(), name.size()));
    const std::string_view within =
        expected.role == TensorRole::kExpertLinear
            ? name_in(names_->expert, part.substr(part.find('.', names_->experts.size()) + 1))
            : name_in(names_->layer, part);
    return GgufLayerPrefix(expected.layer) + std::string(within);
  }

  void JudgeMissing() {
    if (missing_.empty()) return;
    std::vector<std::string> names;
    if (missing_.size() <= kNamed) {
      for (const std::string& name : missing_) names.push_back(QuoteForMessage(name));
    } else {
      names = PatternLines(CountPatterns(missing_));
    }
    Add(Severity::kError, "missing-tensor", missing_.front(),
        fmt::format(
            "{}: {} that the keys ({}) predict {} missing: {}; {}", formats::ShownPath(file_),
            missing_.size() == 1 ? "a tensor" : fmt::format("{} tensors", missing_.size()),
            architecture_, missing_.size() == 1 ? "is" : "are", fmt::join(names, ", "), kAdvice));
  }

  void JudgeHead() {
    const bool needed = config_->v4.has_value();
    Add(needed ? Severity::kError : Severity::kWarning, "missing-tensor", "output.weight",
        fmt::format(
            "{}: output.weight is missing, {}; {}", formats::ShownPath(file_),
            needed ? "and llama.cpp's deepseek4 needs a head"
                   : "and llama.cpp takes the embedding in its place, which is right for "
                     "a model whose head is the embedding",
            needed ? kAdvice : "where the model has a head of its own, make the file again"));
  }

  const Catalog& catalog_;
  const GgufModel& gguf_;
  const std::string& file_;  // the first of them
  const std::string_view architecture_;
  const GgufNames* names_ = nullptr;
  const ModelConfig* config_ = nullptr;
  bool has_main_ = true;
  bool has_mtp_ = true;
  std::set<std::string> judged_;
  std::vector<std::string> missing_;
  formats::Findings findings_;
};

}  // namespace

formats::Findings JudgeGgufTensors(const OpenedModel& model) { return TensorJudge(model).Run(); }

}  // namespace dsv3::convert
