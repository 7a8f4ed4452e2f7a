#include "convert/model/forward_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "convert/model/config_fields-inl.h"

namespace dsv3::convert {
namespace {

using Json = nlohmann::json;

class Reader {
 public:
  Reader(const Json& object, const ModelConfig& config, const std::string& file,
         const std::string& path)
      : object_(object), config_(config), fields_(object, file, path, /*strict=*/true) {}

  ForwardConfig Run() {
    RequireModel();
    RequireOnly("hidden_act", {"silu"});
    result_.rms_norm_eps = Number(object_, "", "rms_norm_eps", 1e-6);
    ReadRope();
    ReadRouter();
    if (config_.index_n_heads > 0) ReadIndexer();
    return result_;
  }

 private:
  [[noreturn]] void Refuse(const std::string& name, const Json& value,
                           std::string_view expected) const {
    fields_.Fail(fmt::format("the forward pass does not do {} {}; it does {}",
                             fields_.PathOf(name.c_str()), ShownInMessage(value), expected));
  }

  void RequireModel() const {
    if (!config_.known || config_.v4) {
      fields_.Fail(
          fmt::format("the forward pass of model_type {} is not known; it is known of "
                      "deepseek_v2, deepseek_v3, deepseek_v32, kimi_k2 and glm_moe_dsa",
                      QuoteForMessage(config_.model_type)));
    }
    if (config_.is_nextn) {
      fields_.Fail(
          "architectures names the MTP layers of a model alone, which cannot run without "
          "it; name the whole checkpoint");
    }
  }

  // A field that may be absent or one of these.
  std::string RequireOnly(const char* name, std::initializer_list<std::string_view> values) const {
    std::string value = fields_.String(name);
    if (value.empty() || std::find(values.begin(), values.end(), value) != values.end()) {
      return value;
    }
    std::string expected;
    for (const std::string_view one : values) {
      if (!expected.empty()) expected += ", ";
      expected += one;
    }
    Refuse(name, Json(value), expected);
  }

  double Number(const Json& object, const std::string& where, const char* name,
                double fallback) const {
    return OptionalNumber(object, where, name).value_or(fallback);
  }
  std::optional<double> OptionalNumber(const Json& object, const std::string& where,
                                       const char* name) const {
    const auto found = object.find(name);
    if (found == object.end() || found->is_null()) return std::nullopt;
    const bool sound = found->is_number() && std::isfinite(found->get<double>());
    if (!sound) fields_.Wrong((where + name).c_str(), "a number", *found);
    return found->get<double>();
  }
  double Positive(const Json& object, const std::string& where, const char* name,
                  double fallback) const {
    const double number = Number(object, where, name, fallback);
    if (!(number > 0)) fields_.Wrong((where + name).c_str(), "a positive number", object.at(name));
    return number;
  }

  // transformers 5 keeps rope_theta inside rope_parameters; older configs beside rope_scaling.
  void ReadRope() {
    result_.rope_theta = Positive(object_, "", "rope_theta", 10000);
    const bool is_glm = config_.model_type == "glm_moe_dsa";
    result_.rope_pairs = fields_.Bool("rope_interleave", true);
    result_.index_rope_pairs = is_glm;
    result_.softmax_scale =
        1 / std::sqrt(static_cast<double>(config_.qk_nope_head_dim + config_.qk_rope_head_dim));
    for (const char* const name : {"rope_scaling", "rope_parameters"}) {
      const Json* const scaling = fields_.Find(name);
      if (scaling == nullptr || scaling->is_null()) continue;
      if (!scaling->is_object()) fields_.Wrong(name, "an object", *scaling);
      ReadScaling(*scaling, std::string(name) + ".");
    }
  }

  void ReadScaling(const Json& scaling, const std::string& where) {
    if (scaling.contains("rope_theta")) {
      result_.rope_theta = Positive(scaling, where, "rope_theta", 10000);
    }
    const char* const key = scaling.contains("rope_type") ? "rope_type" : "type";
    const auto type = scaling.find(key);
    if (type == scaling.end() || *type == "default") return;
    if (*type != "yarn") Refuse(where + key, *type, "yarn and default");
    YarnScaling yarn;
    yarn.factor = Positive(scaling, where, "factor", 1);
    yarn.original_positions = Positive(scaling, where, "original_max_position_embeddings",
                                       Number(object_, "", "max_position_embeddings", 4096));
    yarn.beta_fast = Positive(scaling, where, "beta_fast", 32);
    yarn.beta_slow = Positive(scaling, where, "beta_slow", 1);
    const auto truncate = scaling.find("truncate");
    yarn.truncate = truncate == scaling.end() || *truncate != Json(false);
    yarn.mscale = Number(scaling, where, "mscale", 0);
    yarn.mscale_all_dim = Number(scaling, where, "mscale_all_dim", 0);
    yarn.attention_factor = OptionalNumber(scaling, where, "attention_factor");
    result_.yarn = yarn;
    const double mscale = yarn.mscale;
    const double all_dim = yarn.mscale_all_dim;
    const auto magnitude = [&](double scale) {
      return yarn.factor <= 1 ? 1.0 : 0.1 * scale * std::log(yarn.factor) + 1;
    };
    result_.rotary_factor =
        mscale != 0 && all_dim != 0 ? magnitude(mscale) / magnitude(all_dim) : magnitude(1);
    if (yarn.attention_factor) result_.rotary_factor = *yarn.attention_factor;
    if (all_dim != 0) result_.softmax_scale *= magnitude(all_dim) * magnitude(all_dim);
  }

  void ReadRouter() {
    if (config_.n_routed_experts == 0) return;
    const bool is_v2 = config_.model_type == "deepseek_v2";
    const std::string scoring = RequireOnly("scoring_func", {"sigmoid", "softmax"});
    result_.softmax_router = scoring.empty() ? is_v2 : scoring == "softmax";
    const std::string method =
        RequireOnly("topk_method", {"noaux_tc", "greedy", "group_limited_greedy"});
    if (method.empty()) {
      result_.group_score = is_v2 ? GroupScore::kNone : GroupScore::kTopTwo;
    } else if (method == "noaux_tc") {
      result_.group_score = GroupScore::kTopTwo;
    } else if (method == "group_limited_greedy") {
      result_.group_score = GroupScore::kMax;
    }
    const bool has_bias = config_.router_bias;
    if (result_.softmax_router && has_bias) {
      Refuse("scoring_func", Json("softmax"), "sigmoid beside a router bias");
    }
    if (!result_.softmax_router && !has_bias) {
      Refuse("topk_method", Json(method), "noaux_tc beside scoring_func sigmoid");
    }
    result_.topk_group = fields_.Count("topk_group", is_v2 ? 1 : DefaultTopkGroup());
    result_.norm_topk_prob = fields_.Bool("norm_topk_prob", !is_v2);
    if (result_.softmax_router && result_.norm_topk_prob) {
      Refuse("norm_topk_prob", Json(true), "false beside scoring_func softmax");
    }
    result_.routed_scaling_factor = Number(object_, "", "routed_scaling_factor", is_v2 ? 1.0 : 2.5);
    RequireChoice();
  }

  std::uint64_t DefaultTopkGroup() const { return config_.model_type == "glm_moe_dsa" ? 1 : 4; }

  void RequireChoice() const {
    const std::uint64_t groups = result_.group_score == GroupScore::kNone ? 1 : config_.n_group;
    const std::uint64_t kept = result_.group_score == GroupScore::kNone ? 1 : result_.topk_group;
    const auto integer = [](std::uint64_t value) { return Json(value); };
    if (config_.n_routed_experts % groups != 0) {
      Refuse(
          "n_group", integer(groups),
          fmt::format("groups of equal size, and there are {} experts", config_.n_routed_experts));
    }
    if (kept == 0 || kept > groups) {
      Refuse("topk_group", integer(kept), fmt::format("1 to n_group, which is {}", groups));
    }
    const std::uint64_t in_group = config_.n_routed_experts / groups;
    if (result_.group_score == GroupScore::kTopTwo && in_group < 2 && groups > 1) {
      Refuse("n_group", integer(groups), "groups of two experts or more");
    }
    if (config_.num_experts_per_tok == 0 || config_.num_experts_per_tok > in_group * kept) {
      Refuse(
          "num_experts_per_tok", integer(config_.num_experts_per_tok),
          fmt::format("at most the {} experts of the groups that a token keeps", in_group * kept));
    }
  }

  void ReadIndexer() {
    result_.index_topk = fields_.Count("index_topk", 2048);
    if (result_.index_topk == 0) Refuse("index_topk", Json(0), "1 or more");
    if (config_.index_head_dim < config_.qk_rope_head_dim) {
      Refuse("index_head_dim", Json(config_.index_head_dim), "qk_rope_head_dim or more");
    }
  }

  const Json& object_;
  const ModelConfig& config_;
  const ConfigFields fields_;
  ForwardConfig result_;
};

}  // namespace

ForwardConfig ParseForwardConfig(std::string_view text, const ModelConfig& config,
                                 const std::string& file) {
  const Json root = ParseConfigObject(text, file);
  const bool nested = !config.prefix.empty();
  const Json& object = nested ? root.at("text_config") : root;
  return Reader(object, config, file, nested ? "text_config." : "").Run();
}

std::vector<double> RotaryFrequencies(const ForwardConfig& config, std::uint64_t dims) {
  const std::uint64_t half = dims / 2;
  const auto size = static_cast<double>(dims);
  std::vector<double> frequencies(half);
  for (std::uint64_t i = 0; i < half; ++i) {
    frequencies[i] = std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / size);
  }
  if (!config.yarn) return frequencies;
  const YarnScaling& yarn = *config.yarn;
  // The dimension that turns so often over the original context.
  const auto dimension = [&](double rotations) {
    return size * std::log(yarn.original_positions / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(config.rope_theta));
  };
  double low = dimension(yarn.beta_fast);
  double high = dimension(yarn.beta_slow);
  if (yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, size - 1);
  if (low == high) high += 0.001;
  for (std::uint64_t i = 0; i < half; ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] *= ramp / yarn.factor + (1 - ramp);
  }
  return frequencies;
}

}  // namespace dsv3::convert
