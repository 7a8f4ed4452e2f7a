#include "convert/model/fitting_fields.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "convert/model/expected_tensors.h"
#include "convert/model/tensor_match.h"
#include "formats/shape.h"

namespace dsv3::convert {
namespace {

using formats::Shape;

// A number that shapes depend on. The shapes of all tensors are sums of products in which it occurs
// once at most.
struct NumberField {
  std::string_view key;
  std::uint64_t* (*of)(ModelConfig&);  // nullptr: the model has no such field
};

constexpr NumberField kNumbers[] = {
    {"vocab_size", [](ModelConfig& c) { return &c.vocab_size; }},
    {"hidden_size", [](ModelConfig& c) { return &c.hidden_size; }},
    {"intermediate_size", [](ModelConfig& c) { return &c.intermediate_size; }},
    {"moe_intermediate_size", [](ModelConfig& c) { return &c.moe_intermediate_size; }},
    {"n_shared_experts", [](ModelConfig& c) { return &c.n_shared_experts; }},
    {"num_attention_heads", [](ModelConfig& c) { return &c.num_attention_heads; }},
    {"q_lora_rank", [](ModelConfig& c) { return &c.q_lora_rank; }},
    {"kv_lora_rank", [](ModelConfig& c) { return &c.kv_lora_rank; }},
    {"qk_nope_head_dim", [](ModelConfig& c) { return &c.qk_nope_head_dim; }},
    {"qk_rope_head_dim", [](ModelConfig& c) { return &c.qk_rope_head_dim; }},
    {"v_head_dim", [](ModelConfig& c) { return &c.v_head_dim; }},
    {"index_n_heads", [](ModelConfig& c) { return &c.index_n_heads; }},
    {"index_head_dim", [](ModelConfig& c) { return &c.index_head_dim; }},
    {"head_dim", [](ModelConfig& c) { return c.v4 ? &c.v4->head_dim : nullptr; }},
    {"o_lora_rank", [](ModelConfig& c) { return c.v4 ? &c.v4->o_lora_rank : nullptr; }},
};

// Dimensions and fields beyond it are not numbers of a model; products of two are below 2^64.
constexpr std::uint64_t kMost = std::uint64_t{1} << 31;

// The value of a field with which a shape that is `now` becomes `found`, when twice the field makes
// it `doubled`.
std::optional<std::uint64_t> Solve(std::uint64_t field, const Shape& now, const Shape& doubled,
                                   const Shape& found) {
  if (now.size() != found.size() || doubled.size() != found.size()) return std::nullopt;
  std::optional<std::uint64_t> value;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (doubled[i] == now[i]) {
      if (found[i] != now[i]) return std::nullopt;
      continue;
    }
    // Of each axis a part, `rest`, does not depend on the field.
    if (doubled[i] < now[i] || 2 * now[i] < doubled[i] || found[i] > kMost) {
      return std::nullopt;
    }
    const std::uint64_t part = doubled[i] - now[i];
    const std::uint64_t rest = now[i] - part;
    if (found[i] <= rest || (found[i] - rest) * field % part != 0) return std::nullopt;
    const std::uint64_t fitting = (found[i] - rest) * field / part;
    if (value && *value != fitting) return std::nullopt;
    value = fitting;
  }
  return value;
}

// Some layers of each kind, since all tensors of a model would be too many to try everything with.
class Sample {
 public:
  Sample(const ModelConfig& config, std::string_view prefix) {
    std::map<std::uint32_t, std::uint64_t> tensors;  // of each layer
    ForEachExpected(config, prefix, [&](const ExpectedTensorView& expected) {
      if (expected.layer != ExpectedTensor::kNoLayer) ++tensors[expected.layer];
    });
    std::map<std::uint64_t, std::uint32_t> last;  // by the number of tensors
    for (const auto& [layer, count] : tensors) {
      if (last.count(count) == 0) layers_.insert(layer);
      last[count] = layer;
    }
    for (const auto& [count, layer] : last) layers_.insert(layer);
  }

  bool Has(const ExpectedTensorView& expected) const {
    if (expected.layer == ExpectedTensor::kNoLayer) return true;
    // Layers that only the config of a trial has come behind all others.
    const bool is_more = layers_.empty() || expected.layer > *layers_.rbegin();
    if (!is_more && layers_.count(expected.layer) == 0) return false;
    return expected.role != TensorRole::kExpertLinear ||
           expected.name.find(".experts.0.") != std::string_view::npos;
  }

 private:
  std::set<std::uint32_t> layers_;
};

// The predicted shapes of what has another one, by position.
using WrongShapes = std::map<std::uint32_t, Shape>;

WrongShapes WrongShapesOf(const ModelConfig& config, const Catalog& catalog,
                          std::string_view prefix, const Sample& sample) {
  WrongShapes wrong;
  TensorMatch match;
  ForEachExpected(config, prefix, [&](const ExpectedTensorView& expected) {
    if (!sample.Has(expected)) return;
    MatchTensor(config, catalog, expected, match);
    for (TensorMatch::Difference& each : match.differences) {
      if (each.position != Catalog::kNone) wrong[each.position] = std::move(each.shape);
    }
  });
  return wrong;
}

// A config to be tried.
struct Trial {
  FittingField field;
  ModelConfig config;
};

class Trials {
 public:
  Trials(const ModelConfig& config, const Catalog& catalog, std::string_view prefix,
         const Sample& sample)
      : config_(config), catalog_(catalog), prefix_(prefix), sample_(sample) {}

  std::vector<Trial> All() {
    const WrongShapes wrong = WrongShapesOf(config_, catalog_, prefix_, sample_);
    if (!wrong.empty()) {
      for (const NumberField& field : kNumbers) TryNumber(field, wrong);
    }
    TryRankOfQueries();
    TrySharedExperts();
    TryRoutedExperts();
    TrySwitches();
    if (config_.v4) TryLayersOfV4();
    return std::move(trials_);
  }

 private:
  void Add(std::string_view key, std::string value, std::string now,
           const std::function<void(ModelConfig&)>& change) {
    Trial& trial = trials_.emplace_back();
    trial.field = {std::string(key), std::move(value), std::move(now)};
    trial.config = config_;
    change(trial.config);
  }

  void AddNumber(std::string_view key, std::uint64_t* (*of)(ModelConfig&), std::uint64_t value) {
    const std::uint64_t now = *of(config_);
    if (value == now || value > kMost) return;
    const auto text = [&](std::uint64_t number) {
      return number == 0 && key == "q_lora_rank" ? std::string("null") : std::to_string(number);
    };
    Add(key, text(value), text(now), [&](ModelConfig& config) { *of(config) = value; });
  }

  // The values that the shapes of what is there ask for, the most frequent ones.
  void TryNumber(const NumberField& field, const WrongShapes& wrong) {
    constexpr std::size_t kTried = 3;
    const std::uint64_t* const now = field.of(config_);
    if (now == nullptr || *now == 0 || *now > kMost) return;
    ModelConfig twice = config_;
    *field.of(twice) *= 2;
    const WrongShapes doubled = WrongShapesOf(twice, catalog_, prefix_, sample_);
    std::map<std::uint64_t, std::size_t> values;
    for (const auto& [position, shape] : wrong) {
      const Shape& found = catalog_.tensors()[position].shape;
      const auto other = doubled.find(position);
      const auto value = Solve(*now, shape, other == doubled.end() ? found : other->second, found);
      if (value) ++values[*value];
    }
    std::vector<std::pair<std::size_t, std::uint64_t>> order;
    order.reserve(values.size());
    for (const auto& [value, count] : values) order.emplace_back(count, value);
    std::sort(order.rbegin(), order.rend());
    order.resize(std::min(order.size(), kTried));
    for (const auto& [count, value] : order) AddNumber(field.key, field.of, value);
  }

  static std::uint64_t* RankOfQueries(ModelConfig& config) { return &config.q_lora_rank; }
  static std::uint64_t* SharedExperts(ModelConfig& config) { return &config.n_shared_experts; }

  // Without a rank q_proj stands in the place of q_a_proj and q_b_proj.
  void TryRankOfQueries() {
    if (config_.v4) return;
    if (config_.q_lora_rank != 0) return AddNumber("q_lora_rank", RankOfQueries, 0);
    for (const CatalogTensor& tensor : catalog_.tensors()) {
      if (!tensor.name.ends_with(".q_a_layernorm.weight") || tensor.shape.size() != 1) continue;
      return AddNumber("q_lora_rank", RankOfQueries, tensor.shape[0]);
    }
  }

  void TrySharedExperts() {
    if (config_.n_shared_experts != 0) return AddNumber("n_shared_experts", SharedExperts, 0);
    if (config_.moe_intermediate_size == 0) return;
    std::set<std::uint64_t> values;
    for (const CatalogTensor& tensor : catalog_.tensors()) {
      if (tensor.name.find(".shared_experts.") == std::string::npos) continue;
      for (const std::uint64_t size : tensor.shape) {
        constexpr std::uint64_t kMostShared = 16;
        const std::uint64_t experts = size / config_.moe_intermediate_size;
        if (experts > 0 && experts <= kMostShared) values.insert(experts);
      }
    }
    for (const std::uint64_t value : values) AddNumber("n_shared_experts", SharedExperts, value);
  }

  // Without experts all layers are dense.
  void TryRoutedExperts() {
    if (config_.n_routed_experts != 0) return;
    constexpr std::string_view kRouter = ".mlp.gate.weight";
    constexpr std::string_view kBias = ".mlp.gate.e_score_correction_bias";
    std::optional<std::uint64_t> experts;
    bool has_bias = false;
    for (const CatalogTensor& tensor : catalog_.tensors()) {
      if (tensor.name.ends_with(kBias)) has_bias = true;
      if (tensor.name.ends_with(kRouter) && tensor.shape.size() == 2) experts = tensor.shape[0];
    }
    constexpr std::uint64_t kMostExperts = 4096;
    if (!experts || *experts > kMostExperts) return;
    Add("n_routed_experts", std::to_string(*experts), "0", [&](ModelConfig& config) {
      config.n_routed_experts = *experts;
      config.router_bias = has_bias;
    });
  }

  // V4's names say of which kind a layer is.
  void TryLayersOfV4() {
    std::uint64_t hashed = 0;
    std::set<std::string> mtp;
    for (const CatalogTensor& tensor : catalog_.tensors()) {
      if (tensor.name.ends_with(".gate.tid2eid")) ++hashed;
      if (tensor.name.starts_with("mtp."))
        mtp.insert(tensor.name.substr(0, tensor.name.find('.', 4)));
    }
    if (hashed != config_.v4->num_hash_layers) {
      Add("num_hash_layers", std::to_string(hashed), std::to_string(config_.v4->num_hash_layers),
          [&](ModelConfig& config) { config.v4->num_hash_layers = hashed; });
    }
    if (mtp.size() != config_.num_nextn_predict_layers) {
      Add("num_nextn_predict_layers", std::to_string(mtp.size()),
          std::to_string(config_.num_nextn_predict_layers),
          [&](ModelConfig& config) { config.num_nextn_predict_layers = mtp.size(); });
    }
  }

  void TrySwitches() {
    const bool bias = config_.attention_bias;
    Add("attention_bias", bias ? "false" : "true", bias ? "true" : "false",
        [&](ModelConfig& config) { config.attention_bias = !bias; });
    if (!config_.router_bias && config_.n_routed_experts > 0) {
      Add("topk_method", "noaux_tc", "another method",
          [](ModelConfig& config) { config.router_bias = true; });
    }
    if (config_.moe_layer_freq > 1) {
      Add("moe_layer_freq", "1", std::to_string(config_.moe_layer_freq),
          [](ModelConfig& config) { config.moe_layer_freq = 1; });
    }
  }

  ModelConfig config_;
  const Catalog& catalog_;
  const std::string_view prefix_;
  const Sample& sample_;
  std::vector<Trial> trials_;
};

// Whether `inner` holds nothing that `outer` lacks.
bool IsWithin(const std::vector<bool>& inner, const std::vector<bool>& outer) {
  for (std::size_t i = 0; i < inner.size(); ++i) {
    if (inner[i] && !outer[i]) return false;
  }
  return true;
}

}  // namespace

// How a config fits the catalog.
struct FittingFields::Fit {
  std::vector<bool> held;   // by position
  std::vector<bool> wrong;  // by position: of another shape than is predicted
  std::set<std::string, std::less<>> missing;
  std::uint64_t num_held = 0;
  std::uint64_t num_wrong = 0;

  Fit(const ModelConfig& config, const Catalog& catalog, std::string_view prefix,
      const Sample* sample)
      : held(catalog.tensors().size()), wrong(catalog.tensors().size()) {
    TensorMatch match;
    ForEachExpected(config, prefix, [&](const ExpectedTensorView& expected) {
      if (sample != nullptr && !sample->Has(expected)) return;
      MatchTensor(config, catalog, expected, match);
      for (const std::uint32_t position : match.held) {
        if (!held[position]) ++num_held;
        held[position] = true;
      }
      for (const TensorMatch::Difference& each : match.differences) {
        if (each.position == Catalog::kNone) {
          missing.emplace(expected.name);
        } else if (!wrong[each.position]) {
          wrong[each.position] = true;
          ++num_wrong;
        }
      }
    });
  }

  std::uint64_t faults() const { return num_wrong + missing.size(); }

  // Whether it mends something, or explains a tensor more, and nothing gets worse.
  bool IsBetterThan(const Fit& other) const {
    return (faults() < other.faults() ||
            (faults() == other.faults() && num_held > other.num_held)) &&
           IsWithin(wrong, other.wrong) && IsWithin(other.held, held) &&
           std::includes(other.missing.begin(), other.missing.end(), missing.begin(),
                         missing.end());
  }
};

FittingFields::FittingFields(const ModelConfig& config, const Catalog& catalog,
                             std::string_view prefix) {
  if (!config.known) return;
  const Sample sample(config, prefix);
  const Fit sampled(config, catalog, prefix, &sample);
  now_ = std::make_shared<const Fit>(config, catalog, prefix, nullptr);
  for (Trial& trial : Trials(config, catalog, prefix, sample).All()) {
    if (!Fit(trial.config, catalog, prefix, &sample).IsBetterThan(sampled)) continue;
    auto fit = std::make_shared<const Fit>(trial.config, catalog, prefix, nullptr);
    if (!fit->IsBetterThan(*now_)) continue;
    candidates_.push_back({std::move(trial.field), std::move(fit)});
  }
}

std::vector<FittingField> FittingFields::Best(const std::function<bool(const Fit&)>& mends) const {
  std::vector<FittingField> best;
  const Fit* first = nullptr;
  for (const Candidate& each : candidates_) {
    if (!mends(*each.fit)) continue;
    const auto rank = [](const Fit& fit) { return std::pair(fit.faults(), ~fit.num_held); };
    if (first != nullptr && rank(*first) < rank(*each.fit)) continue;
    if (first == nullptr || rank(*each.fit) < rank(*first)) best.clear();
    first = each.fit.get();
    best.push_back(each.field);
  }
  return best;
}

std::string FittingFields::ForShape(std::uint32_t position) const {
  const auto best =
      Best([&](const Fit& fit) { return fit.held[position] && !fit.wrong[position]; });
  if (best.empty()) return "";
  std::string text = fmt::format("; {} {}", best[0].key, best[0].value);
  for (std::size_t i = 1; i < best.size(); ++i) {
    text += fmt::format(", or {} {},", best[i].key, best[i].value);
  }
  text += " would fit this tensor";
  if (best.size() > 1) return text + ": correct config.json";
  return text + fmt::format(", and counts as {} now: correct config.json", best[0].now);
}

std::string FittingFields::ForMissing(std::string_view name) const {
  const auto best = Best([&](const Fit& fit) { return fit.missing.count(name) == 0; });
  std::string text;
  for (const FittingField& field : best) {
    text += fmt::format(", or set {} to {}, which fits what is there", field.key, field.value);
  }
  return text;
}

std::string FittingFields::ForUnexpected(std::uint32_t position) const {
  const auto best = Best([&](const Fit& fit) { return fit.held[position]; });
  if (best.empty() || now_->held[position]) return "";
  return fmt::format("set {} to {}, which fits what is there; it counts as {} now", best[0].key,
                     best[0].value, best[0].now);
}

}  // namespace dsv3::convert
