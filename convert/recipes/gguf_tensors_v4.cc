#include "convert/recipes/gguf_tensors_v4.h"

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "convert/layouts/gguf_names.h"
#include "convert/open/gguf_architecture.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kMtp = "mtp.";

class V4TensorPlanner {
 public:
  V4TensorPlanner(const OpenedModel& model, const std::vector<ScaledWeight>& weights,
                  const GgufWeightTypes& types)
      : config_(model.config), weights_(model, weights, types, GgufArchitecture::kDeepSeek4) {}

  GgufTensors Make(const std::vector<std::uint32_t>& dropped) {
    const std::span<const GgufNamePair> outside = names_.outside;
    Add(outside.front(), "", "");  // the embedding
    for (std::uint64_t layer = 0; layer < config_.num_hidden_layers; ++layer) AddLayer(layer);
    for (const GgufNamePair& name : outside.subspan(1)) Add(name, "", "");
    for (const std::uint32_t i : dropped) weights_.Drop(i);
    result_.left_out = weights_.LeftOut([&](std::string_view name) {
      return name.starts_with(kMtp) || !name.starts_with(weights_.prefix);
    });
    result_.converted = weights_.converted;
    result_.kept = std::move(weights_.kept);
    return std::move(result_);
  }

 private:
  void AddLayer(std::uint64_t layer) {
    const std::string of = names_.LayerPrefix(layer);
    const std::string to = GgufLayerPrefix(layer);
    // A table gives the experts there, so that the router's bias says nothing.
    if (layer < config_.v4->num_hash_layers) {
      if (const auto bias = weights_.Find(of + "ffn.gate.bias")) weights_.Drop(*bias);
    }
    for (const GgufNamePair& name : names_.layer) {
      const std::optional<std::uint32_t> tensor = weights_.Find(of + std::string(name.model));
      if (tensor && !weights_.IsUsed(*tensor)) Add(name, of, to);
    }
    for (const GgufNamePair& matrix : names_.expert) {
      std::vector<std::uint32_t> experts;
      for (std::uint64_t expert = 0; expert < config_.n_routed_experts; ++expert) {
        experts.push_back(weights_.Need(names_.ExpertName(layer, expert, matrix.model)));
      }
      const std::string gguf = to + std::string(matrix.gguf);
      Put(gguf, weights_.Stacked(experts, gguf));
    }
  }

  void Add(const GgufNamePair& name, const std::string& of, const std::string& to) {
    const std::uint32_t tensor = weights_.Need(of + std::string(name.model));
    const std::string gguf = to + std::string(name.gguf);
    switch (name.use) {
      case GgufUse::kWeight:
        return Put(gguf, weights_.Whole(tensor, gguf));
      case GgufUse::kStored:
        return Put(gguf, weights_.Stored(tensor, gguf));
      case GgufUse::kTable:
        return Put(gguf, weights_.Table(tensor));
    }
  }

  void Put(std::string name, GgufWeights::Made made) {
    result_.tensors.push_back(
        {std::move(name), made.type, std::move(made.shape), std::move(made.bytes)});
  }

  const GgufNames& names_ = V4GgufNames();
  const ModelConfig& config_;
  GgufWeights weights_;
  GgufTensors result_;
};

}  // namespace

GgufTensors PlanV4GgufTensors(const OpenedModel& model, const std::vector<ScaledWeight>& weights,
                              const std::vector<std::uint32_t>& dropped,
                              const GgufWeightTypes& types) {
  return V4TensorPlanner(model, weights, types).Make(dropped);
}

}  // namespace dsv3::convert
