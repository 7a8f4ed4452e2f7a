#include "convert/forward/router.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>

#include "quant/elementwise.h"

namespace dsv3::convert {
namespace {

// Positions of the `count` largest values, the largest first, of equal ones the first.
std::vector<std::uint32_t> Largest(std::span<const float> values, std::size_t count) {
  std::vector<std::uint32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0U);
  const auto end = order.begin() + static_cast<std::ptrdiff_t>(std::min(count, order.size()));
  std::partial_sort(order.begin(), end, order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return values[a] != values[b] ? values[a] > values[b] : a < b;
  });
  order.erase(end, order.end());
  return order;
}

std::vector<float> Scores(const ForwardConfig& config, std::span<const float> logits) {
  std::vector<float> scores(logits.begin(), logits.end());
  if (config.softmax_router) {
    quant::SoftmaxInPlace(scores);
    return scores;
  }
  for (float& score : scores) score = 1 / (1 + std::exp(-score));
  return scores;
}

// Takes the experts of groups that are not kept out of the choice.
void KeepGroups(const ForwardConfig& config, std::uint64_t groups, std::span<float> choice) {
  const std::size_t size = choice.size() / groups;
  std::vector<float> of_group(groups);
  for (std::size_t group = 0; group < groups; ++group) {
    const auto scores = choice.subspan(group * size, size);
    if (config.group_score == GroupScore::kMax) {
      of_group[group] = *std::max_element(scores.begin(), scores.end());
      continue;
    }
    const std::vector<std::uint32_t> best = Largest(scores, 2);
    of_group[group] = scores[best[0]] + scores[best[1]];
  }
  std::vector<bool> kept(groups, false);
  for (const std::uint32_t group : Largest(of_group, config.topk_group)) kept[group] = true;
  for (std::size_t i = 0; i < choice.size(); ++i) {
    if (!kept[i / size]) choice[i] = -std::numeric_limits<float>::infinity();
  }
}

void SetWeights(const ForwardConfig& config, const std::vector<float>& scores,
                ExpertChoice& result) {
  float sum = 0;
  for (const std::uint32_t expert : result.experts) {
    result.weights.push_back(scores[expert]);
    sum += scores[expert];
  }
  const auto factor = static_cast<float>(config.routed_scaling_factor);
  for (float& weight : result.weights) {
    if (config.norm_topk_prob) weight /= sum + 1e-20F;
    weight *= factor;
  }
}

}  // namespace

ExpertChoice ChooseExperts(const ForwardConfig& config, std::uint64_t groups, std::uint64_t top_k,
                           std::span<const float> logits, std::span<const float> bias) {
  const std::vector<float> scores = Scores(config, logits);
  std::vector<float> choice = scores;
  for (std::size_t i = 0; i < bias.size(); ++i) choice[i] += bias[i];
  if (config.group_score != GroupScore::kNone && groups > 1) KeepGroups(config, groups, choice);

  ExpertChoice result;
  result.experts = Largest(choice, top_k + 1);
  result.margin = std::numeric_limits<float>::infinity();
  if (result.experts.size() > top_k) {
    result.margin = choice[result.experts[top_k - 1]] - choice[result.experts[top_k]];
    result.experts.resize(top_k);
  }
  SetWeights(config, scores, result);
  return result;
}

ExpertChoice WeighExperts(const ForwardConfig& config, std::span<const float> logits,
                          std::vector<std::uint32_t> experts) {
  ExpertChoice result;
  result.experts = std::move(experts);
  SetWeights(config, Scores(config, logits), result);
  return result;
}

}  // namespace dsv3::convert
