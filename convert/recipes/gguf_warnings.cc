#include "convert/recipes/gguf_warnings.h"

#include <cmath>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "convert/model/forward_config.h"
#include "formats/checkpoint_files.h"

namespace dsv3::convert {
namespace {

// What llama.cpp takes where a file's keys for them are not read.
constexpr double kBetaFast = 32;
constexpr double kBetaSlow = 1;

void Warn(std::string message, formats::Findings& warnings) {
  warnings.push_back({formats::Severity::kWarning, "llama-cpp-differs", formats::kConfigName, "",
                      std::move(message)});
}

// Whether llama.cpp multiplies cos, sin and scores with what the config asks for. It reads
// mscale_all_dim alone: where that is given, it takes mscale for the same (of deepseek2) or for 1
// (of the others). Cos and sin are right then, but the scale of scores has their factor once more
// for each of query and key.
bool HasMagnitudes(const YarnScaling& yarn, const ForwardConfig& forward,
                   GgufArchitecture architecture) {
  const auto magnitude = [&](double mscale) {
    return yarn.factor <= 1 ? 1 : 0.1 * mscale * std::log(yarn.factor) + 1;
  };
  const double all_dim = yarn.mscale_all_dim;
  double rotary = magnitude(1);
  if (all_dim != 0) {
    const bool as_all_dim = architecture == GgufArchitecture::kDeepSeek2 && all_dim != 1;
    rotary = magnitude(as_all_dim ? all_dim : 1) / magnitude(all_dim);
  }
  constexpr double kSame = 1e-6;
  return std::abs(rotary / forward.rotary_factor - 1) < kSame && std::abs(rotary - 1) < kSame;
}

void WarnOfYarn(const ForwardConfig& forward, GgufArchitecture architecture,
                formats::Findings& warnings) {
  const YarnScaling& yarn = *forward.yarn;
  if (yarn.beta_fast != kBetaFast || yarn.beta_slow != kBetaSlow) {
    Warn(fmt::format(
             "llama.cpp does not read beta_fast {} and beta_slow {} (rope_scaling) from the file, "
             "and takes {} and {}: its logits would differ; run it with --yarn-beta-fast {} "
             "--yarn-beta-slow {}",
             yarn.beta_fast, yarn.beta_slow, kBetaFast, kBetaSlow, yarn.beta_fast, yarn.beta_slow),
         warnings);
  }
  if (!yarn.truncate) {
    Warn(
        "llama.cpp rounds the dimensions between which YaRN blends, and 'truncate' (rope_scaling) "
        "is false: its logits differ from the model's",
        warnings);
  }
  if (!HasMagnitudes(yarn, forward, architecture)) {
    Warn(
        "llama.cpp scales scores and rotations by mscale_all_dim (rope_scaling) alone, which gives "
        "other numbers than the model's mscale, mscale_all_dim and attention_factor: its logits "
        "differ",
        warnings);
  }
}

}  // namespace

formats::Findings GgufWarnings(const OpenedModel& model, const GgufTarget& target) {
  formats::Findings warnings;
  if (target.architecture == GgufArchitecture::kDeepSeek4) return warnings;
  const ForwardConfig forward =
      ParseForwardConfig(model.config_text, model.config, formats::kConfigName);
  if (forward.yarn) WarnOfYarn(forward, target.architecture, warnings);
  const bool by_groups = model.config.n_routed_experts > 0 && model.config.n_group > 1;
  if (by_groups && forward.group_score != GroupScore::kTopTwo) {
    Warn(fmt::format("llama.cpp takes groups of experts (n_group {}) by the sum of their two "
                     "largest scores, and this model (topk_method) {}: it may take other experts",
                     model.config.n_group,
                     forward.group_score == GroupScore::kMax ? "by the largest"
                                                             : "does not choose by groups"),
         warnings);
  }
  return warnings;
}

}  // namespace dsv3::convert
