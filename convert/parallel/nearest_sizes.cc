#include "convert/parallel/nearest_sizes.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/parallel/size_rules.h"

namespace dsv3::convert {
namespace {

constexpr std::size_t kMostShown = 3;

// The divisors of n up to `limit`, ascending.
std::vector<std::uint64_t> DivisorsOf(std::uint64_t n, std::uint64_t limit) {
  std::vector<std::uint64_t> small, large;
  for (std::uint64_t d = 1; d <= limit && d * d <= n; ++d) {
    if (n % d != 0) continue;
    small.push_back(d);
    if (d * d != n && n / d <= limit) large.push_back(n / d);
  }
  small.insert(small.end(), large.rbegin(), large.rend());
  return small;
}

// How far apart two sizes are; 1 for equal ones.
double Ratio(std::uint64_t a, std::uint64_t b) {
  const auto x = static_cast<double>(std::max<std::uint64_t>(a, 1));
  const auto y = static_cast<double>(std::max<std::uint64_t>(b, 1));
  return std::max(x, y) / std::min(x, y);
}

struct Candidate {
  Topology sizes;
  double distance = 1;
  int changes = 0;

  auto Key() const {
    return std::tie(distance, changes, sizes.tp, sizes.ep, sizes.dp, sizes.pp,
                    sizes.redundant_experts);
  }
};

class Search {
 public:
  Search(const ParallelOptions& options, const Topology& asked, const ModelConfig& config)
      : options_(options), asked_(asked), config_(config) {}

  std::vector<Candidate> Run() {
    const std::uint64_t heads = config_.num_attention_heads;
    const std::vector<std::uint64_t> tps =
        heads == 0 ? std::vector<std::uint64_t>{1} : DivisorsOf(heads, kMaxWorldSize);
    const std::vector<std::pair<std::uint64_t, std::uint64_t>> experts = ExpertSizes();
    for (const std::uint64_t tp : tps) {
      for (const auto& [ep, redundant] : experts) {
        for (const std::uint64_t dp : DpSizes(tp, ep)) Try(tp, ep, dp, redundant);
      }
    }
    return std::move(best_);
  }

 private:
  // (ep, redundant experts): the divisors of what was asked, and what was asked with another number
  // of redundant experts.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ExpertSizes() const {
    const std::uint64_t experts = asked_.experts;
    if (experts == 0) return {{1, 0}};
    const std::uint64_t most = (kMaxReplicas - 1) * experts;
    const std::uint64_t redundant = std::min(asked_.redundant_experts, most);
    std::vector<std::pair<std::uint64_t, std::uint64_t>> sizes;
    for (const std::uint64_t ep : DivisorsOf(experts + redundant, kMaxWorldSize)) {
      sizes.emplace_back(ep, redundant);
    }
    if (const std::uint64_t ep = asked_.ep; ep > 1 && ep <= kMaxWorldSize) {
      const std::uint64_t below = (experts + redundant) / ep * ep;
      if (below >= experts) sizes.emplace_back(ep, below - experts);
      if (below + ep <= experts + most) sizes.emplace_back(ep, below + ep - experts);
    }
    return sizes;
  }

  // What was asked, or follows from tp and ep, and the nearest on both sides that make ep divide
  // the ranks of a stage.
  std::vector<std::uint64_t> DpSizes(std::uint64_t tp, std::uint64_t ep) const {
    const std::uint64_t wanted = std::min(WantedDp(tp, ep), kMaxWorldSize / tp);
    const std::uint64_t step = std::max<std::uint64_t>(1, ep / std::gcd(ep, tp));
    const std::uint64_t below = wanted / step * step;
    if (below == wanted) return {wanted};
    if (below == 0) return {step};
    return {below, below + step};
  }

  std::uint64_t WantedDp(std::uint64_t tp, std::uint64_t ep) const {
    return std::max<std::uint64_t>(1, options_.dp.value_or(ep / tp));
  }

  // The divisor of `width` and of the ranks of a stage that is nearest to `wanted`, the lower of
  // two. Where there is nothing to divide (`width` is 0), the divisor of the ranks alone.
  static std::uint64_t NearestWays(std::uint64_t wanted, std::uint64_t width, std::uint64_t ranks) {
    std::uint64_t nearest = 1;
    for (const std::uint64_t d : DivisorsOf(std::gcd(width, ranks), kMaxWorldSize)) {
      if (Ratio(d, wanted) < Ratio(nearest, wanted)) nearest = d;
    }
    return nearest;
  }

  void Try(std::uint64_t tp, std::uint64_t ep, std::uint64_t dp, std::uint64_t redundant) {
    ParallelOptions options = options_;
    options.tp = tp;
    options.ep = ep;
    options.dp = dp;
    options.redundant_experts = redundant;
    const std::uint64_t ranks = tp * dp;
    if (ranks > kMaxWorldSize) return;
    const std::uint64_t stages =
        std::min(std::max<std::uint64_t>(1, asked_.layers), kMaxWorldSize / ranks);
    options.pp = std::clamp<std::uint64_t>(asked_.pp, 1, stages);
    double distance = Ratio(tp, asked_.tp) * Ratio(ep, asked_.ep) * Ratio(dp, WantedDp(tp, ep)) *
                      Ratio(*options.pp, asked_.pp);
    if (asked_.experts > 0) {
      distance *= Ratio(asked_.experts + redundant, asked_.physical_experts);
    }
    // Without the option tp decides, and the rules judge it.
    const auto fit = [&](std::optional<std::uint64_t>& ways, std::uint64_t width) {
      if (!ways) return;
      const std::uint64_t nearest = NearestWays(*ways, width, ranks);
      distance *= Ratio(nearest, *ways);
      ways = nearest;
    };
    fit(options.dense_tp, DenseWidth(config_));
    fit(options.shared_expert_tp, SharedExpertWidth(config_));
    fit(options.embed_tp, PaddedVocabulary(config_.vocab_size));

    Candidate candidate{CompleteSizes(options, config_), distance, 0};
    candidate.changes = (tp != asked_.tp) + (ep != asked_.ep) + (dp != WantedDp(tp, ep)) +
                        (redundant != asked_.redundant_experts);
    if (!IsAmongBest(candidate) || !SizeProblem(candidate.sizes, config_).empty()) return;
    const auto at =
        std::lower_bound(best_.begin(), best_.end(), candidate,
                         [](const Candidate& a, const Candidate& b) { return a.Key() < b.Key(); });
    best_.insert(at, candidate);
    if (best_.size() > kMostShown) best_.pop_back();
  }

  bool IsAmongBest(const Candidate& candidate) const {
    for (const Candidate& known : best_) {
      if (known.sizes == candidate.sizes) return false;
    }
    return best_.size() < kMostShown || candidate.Key() < best_.back().Key();
  }

  const ParallelOptions& options_;
  const Topology& asked_;
  const ModelConfig& config_;
  std::vector<Candidate> best_;  // ascending by Key
};

// The options that ask for the sizes.
std::string CommandText(const ParallelOptions& given, const Topology& sizes,
                        const ModelConfig& config) {
  ParallelOptions defaults;
  defaults.tp = sizes.tp;
  defaults.ep = sizes.ep;
  const Topology by_default = CompleteSizes(defaults, config);
  std::string text;
  const auto add = [&](std::string_view name, std::uint64_t value, bool needed) {
    if (needed) fmt::format_to(std::back_inserter(text), " --{} {}", name, value);
  };
  add("tp", sizes.tp, given.tp || sizes.tp != 1);
  add("ep", sizes.ep, given.ep || sizes.ep != 1);
  add("dp", sizes.dp, given.dp || sizes.dp != by_default.dp);
  add("pp", sizes.pp, given.pp.has_value());
  add("dense-tp", sizes.dense_tp, given.dense_tp.has_value());
  add("shared-expert-tp", sizes.shared_expert_tp, given.shared_expert_tp.has_value());
  add("embed-tp", sizes.embed_tp, given.embed_tp.has_value());
  add("redundant-experts", sizes.redundant_experts,
      given.redundant_experts > 0 || sizes.redundant_experts > 0);
  return text.substr(1);
}

}  // namespace

std::string NearestSizesText(const ParallelOptions& options, const Topology& sizes,
                             const ModelConfig& config) {
  std::vector<std::string> commands;
  for (const Candidate& candidate : Search(options, sizes, config).Run()) {
    commands.push_back(CommandText(options, candidate.sizes, config));
  }
  std::string text = "the nearest sizes that fit: ";
  for (std::size_t i = 0; i < commands.size(); ++i) {
    if (i > 0) text += i + 1 == commands.size() ? " or " : ", ";
    text += commands[i];
  }
  return text;
}

}  // namespace dsv3::convert
