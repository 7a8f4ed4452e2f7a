#include "convert/parallel/size_rules.h"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "convert/model/layer_kinds.h"

namespace dsv3::convert {
namespace {

std::string ZeroProblem(const Topology& sizes) {
  const auto zero = [](std::string_view option) {
    return fmt::format("{} is 0, but at least one rank is needed", option);
  };
  if (sizes.tp == 0) return zero("--tp");
  if (sizes.ep == 0) return zero("--ep");
  if (sizes.dp == 0) return zero("--dp");
  if (sizes.pp == 0) return zero("--pp");
  if (sizes.dense_tp == 0) return zero("--dense-tp");
  if (sizes.shared_expert_tp == 0) return zero("--shared-expert-tp");
  if (sizes.embed_tp == 0) return zero("--embed-tp");
  return "";
}

std::string ExpertCountProblem(const Topology& sizes) {
  if (sizes.experts == 0) {
    if (sizes.ep > 1) {
      return fmt::format("--ep {} divides routed experts, but the model has none", sizes.ep);
    }
    if (sizes.redundant_experts > 0) {
      return fmt::format("--redundant-experts {} repeats routed experts, but the model has none",
                         sizes.redundant_experts);
    }
    return "";
  }
  if (sizes.redundant_experts > (kMaxReplicas - 1) * sizes.experts) {
    return fmt::format("--redundant-experts {} is above {}, {} for each of the model's {} experts",
                       sizes.redundant_experts, (kMaxReplicas - 1) * sizes.experts,
                       kMaxReplicas - 1, sizes.experts);
  }
  const std::string physical =
      sizes.redundant_experts == 0
          ? fmt::format("the model's {} experts", sizes.experts)
          : fmt::format("the {} physical experts ({} and {} redundant ones)",
                        sizes.physical_experts, sizes.experts, sizes.redundant_experts);
  if (sizes.ep > sizes.physical_experts) {
    return fmt::format("--ep {} is above {}", sizes.ep, physical);
  }
  if (sizes.physical_experts % sizes.ep != 0) {
    return fmt::format("--ep {} does not divide {}", sizes.ep, physical);
  }
  return "";
}

std::string WorldProblem(const Topology& sizes) {
  // Each factor alone first, so that the product cannot overflow.
  const bool fits = sizes.tp <= kMaxWorldSize && sizes.dp <= kMaxWorldSize &&
                    sizes.pp <= kMaxWorldSize && sizes.world_size() <= kMaxWorldSize;
  if (fits) return "";
  return fmt::format("tp {} × dp {} × pp {} are more than {} ranks, the most that are planned",
                     sizes.tp, sizes.dp, sizes.pp, kMaxWorldSize);
}

// The problem of a size that equals tp unless an option gives another.
std::string WaysProblem(std::string_view option, std::uint64_t ways, std::string_view what,
                        std::uint64_t width, const Topology& sizes) {
  const std::string name =
      fmt::format("--{} {}{}", option, ways, ways == sizes.tp ? " (--tp unless given)" : "");
  if (sizes.ranks_per_stage() % ways != 0) {
    return fmt::format("{} does not divide the {} ranks of a stage (tp {} × dp {})", name,
                       sizes.ranks_per_stage(), sizes.tp, sizes.dp);
  }
  if (width % ways != 0) return fmt::format("{} does not divide {} {}", name, what, width);
  return "";
}

}  // namespace

std::uint64_t DenseWidth(const ModelConfig& config) {
  return HasDenseLayers(config) ? config.intermediate_size : 0;
}

std::uint64_t SharedExpertWidth(const ModelConfig& config) {
  return config.n_routed_experts == 0 ? 0 : config.n_shared_experts * config.moe_intermediate_size;
}

Topology CompleteSizes(const ParallelOptions& options, const ModelConfig& config) {
  Topology sizes;
  sizes.tp = options.tp.value_or(1);
  sizes.ep = options.ep.value_or(1);
  const std::uint64_t ep_by_tp = sizes.tp == 0 ? 1 : sizes.ep / sizes.tp;
  sizes.dp = options.dp.value_or(std::max<std::uint64_t>(1, ep_by_tp));
  sizes.pp = options.pp.value_or(1);
  sizes.dense_tp = options.dense_tp.value_or(sizes.tp);
  sizes.shared_expert_tp = options.shared_expert_tp.value_or(sizes.tp);
  sizes.embed_tp = options.embed_tp.value_or(sizes.tp);
  sizes.redundant_experts = options.redundant_experts;
  sizes.layers = config.num_hidden_layers;
  sizes.experts = config.n_routed_experts;
  // Wraps only beyond the limit of redundant experts, which is judged first.
  sizes.physical_experts = sizes.experts + sizes.redundant_experts;
  const bool fits = sizes.tp <= kMaxWorldSize && sizes.dp <= kMaxWorldSize && sizes.ep != 0 &&
                    sizes.ranks_per_stage() % sizes.ep == 0;
  sizes.moe_tp = fits ? sizes.ranks_per_stage() / sizes.ep : 0;
  return sizes;
}

std::string SizeProblem(const Topology& sizes, const ModelConfig& config) {
  if (std::string problem = ZeroProblem(sizes); !problem.empty()) return problem;
  if (config.num_attention_heads % sizes.tp != 0) {
    return fmt::format("--tp {} does not divide the model's {} attention heads", sizes.tp,
                       config.num_attention_heads);
  }
  if (config.v4 && config.v4->o_groups % sizes.tp != 0) {
    return fmt::format("--tp {} does not divide the model's {} groups of heads (o_groups)",
                       sizes.tp, config.v4->o_groups);
  }
  if (std::string problem = ExpertCountProblem(sizes); !problem.empty()) return problem;
  if (std::string problem = WorldProblem(sizes); !problem.empty()) return problem;
  if (sizes.moe_tp == 0) {
    return fmt::format("--ep {} does not divide the {} ranks of a stage (tp {} × dp {})", sizes.ep,
                       sizes.ranks_per_stage(), sizes.tp, sizes.dp);
  }
  if (sizes.experts > 0 && config.moe_intermediate_size % sizes.moe_tp != 0) {
    return fmt::format(
        "the {} ranks that share a routed expert (tp {} × dp {} / ep {}) do not divide its "
        "intermediate size {}",
        sizes.moe_tp, sizes.tp, sizes.dp, sizes.ep, config.moe_intermediate_size);
  }
  if (sizes.pp > std::max<std::uint64_t>(1, sizes.layers)) {
    return fmt::format("--pp {} is above the model's {} layers", sizes.pp, sizes.layers);
  }
  if (std::string problem =
          WaysProblem("dense-tp", sizes.dense_tp, "the intermediate size of the dense layers",
                      DenseWidth(config), sizes);
      !problem.empty()) {
    return problem;
  }
  if (std::string problem = WaysProblem("shared-expert-tp", sizes.shared_expert_tp,
                                        "the intermediate size of the shared experts",
                                        SharedExpertWidth(config), sizes);
      !problem.empty()) {
    return problem;
  }
  return WaysProblem("embed-tp", sizes.embed_tp, "the padded vocabulary",
                     PaddedVocabulary(config.vocab_size), sizes);
}

}  // namespace dsv3::convert
