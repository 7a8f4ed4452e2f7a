#include "convert/forward/forward_comparison.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "convert/forward/config_differences.h"
#include "convert/forward/model_parts.h"
#include "convert/forward/module_differences.h"
#include "convert/forward/ranks.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

bool SameSet(std::vector<std::uint32_t> a, std::vector<std::uint32_t> b) {
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  return a == b;
}

}  // namespace

ForwardComparison::ForwardComparison(const ComparedModel& a, const OpenedModel& other,
                                     const ComparisonOptions& options, ProgressSink& progress,
                                     const StopToken& stop)
    : a_(a),
      other_(other),
      options_(options),
      forward_(ParseForwardConfig(other.config_text, other.config, formats::kConfigName)),
      weights_(other, options.weights, options.threads, options.memory_bytes, progress, stop),
      modules_(weights_, options.activations),
      head_(modules_, other.config, forward_, kFinalNormName) {
  weights_.NameDirectory();
  RequireComparable(a.config, other.config);
  if (options.replay_routing &&
      (a.config.n_routed_experts != other.config.n_routed_experts ||
       a.config.num_experts_per_tok != other.config.num_experts_per_tok)) {
    throw Error(ErrorCode::kBadInput,
                "--replay-routing: MODEL and OTHER have other numbers of experts, so OTHER cannot "
                "take MODEL's "
                "choices; leave the option out");
  }
  report_.directory = other.directory;
  // The inputs of a linear are quantised where its weight is FP8, which no comparison of values
  // shows, and ranks add in an order of their own.
  diverged_ = !options.compare_weights || Quantizes(options.activations) || a.weights.ranks() ||
              weights_.ranks();
  if (weights_.ranks()) report_.ranks = weights_.ranks()->sizes();
  if (!options.compare_weights) return;
  comparison_ = std::make_unique<WeightComparison>(
      a, ComparedModel{other.config, forward_, weights_}, options.activations);
  a.weights.set_comparison(comparison_.get());
}

ForwardComparison::~ForwardComparison() { a_.weights.set_comparison(nullptr); }

bool ForwardComparison::Diverges() {
  return !diverged_ && comparison_ != nullptr && comparison_->TakeFound();
}

void ForwardComparison::OnEmbedded(const std::vector<std::vector<std::uint32_t>>& sequences) {
  std::vector<std::uint32_t> tokens;
  std::size_t longest = 0;
  for (const auto& sequence : sequences) {
    sequences_.push_back({tokens.size(), sequence.size(), 0});
    tokens.insert(tokens.end(), sequence.begin(), sequence.end());
    longest = std::max(longest, sequence.size());
  }
  rotary_ = std::make_unique<Rotary>(forward_, other_.config.qk_rope_head_dim, longest);
  outputs_ = std::make_unique<OutputComparison>(sequences);
  if (Diverges()) diverged_ = true;
  if (diverged_) {
    stream_ = EmbedOnRanks(modules_, other_.config, kEmbeddingName, tokens, sequences_);
  }
}

void ForwardComparison::BeforeLayer(const Rows& stream, const Batch& batch) {
  if (diverged_) return;
  stream_ = stream;
  keys_ = batch.keys;
}

void ForwardComparison::RunLayer(std::uint64_t layer, const Batch& batch, bool is_moe,
                                 const std::vector<ExpertChoice>& choices) {
  Batch own{sequences_, options_.replay_routing ? batch.keys : keys_};
  LayerCache cache(sequences_.size());
  std::vector<ExpertChoice> own_choices;
  DecoderLayer decoder(other_.config, forward_, *rotary_, options_.attention, modules_, layer);
  const bool replays = options_.replay_routing && decoder.is_moe() == is_moe;
  decoder.Run(stream_, own, cache, own_choices, replays ? &choices : nullptr);
  keys_ = std::move(own.keys);
  if (own_choices.size() != choices.size()) return;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (!SameSet(choices[i].experts, own_choices[i].experts)) ++report_.differing;
  }
}

void ForwardComparison::AfterLayer(std::uint64_t layer, const Rows& stream, const Batch& batch,
                                   bool is_moe, const std::vector<ExpertChoice>& choices) {
  report_.choices += choices.size();
  for (const ExpertChoice& choice : choices) {
    if (!std::isfinite(choice.margin)) continue;
    report_.smallest_margin =
        std::min<double>(report_.smallest_margin.value_or(choice.margin), choice.margin);
  }
  if (Diverges()) diverged_ = true;
  ErrorSums sums;
  if (diverged_) {
    RunLayer(layer, batch, is_moe, choices);
    for (std::size_t i = 0; i < stream.values.size(); ++i) {
      sums.Add(stream.values[i], stream_.values[i]);
    }
  }
  report_.layers.push_back({layer, sums.Nmse(), sums.Cosine()});
}

void ForwardComparison::OnNormed(const Rows& stream, const Rows& normed) {
  if (Diverges()) {
    diverged_ = true;
    stream_ = stream;
  }
  normed_ = diverged_ ? head_.Norm(stream_, sequences_) : normed;
  stream_ = {};
}

void ForwardComparison::OnMtp(const std::vector<std::vector<std::uint32_t>>& sequences,
                              const MtpLayer::Result& result) {
  if (Diverges()) diverged_ = true;
  // Then the configs differ, which was recorded.
  if (other_.config.num_nextn_predict_layers == 0) return;
  mtp_.emplace(other_.config, forward_, *rotary_, options_.attention, modules_);
  if (diverged_) {
    normed_ = mtp_->Run(sequences, normed_, head_.normed_of_ranks(),
                        options_.replay_routing ? &result : nullptr)
                  .normed;
  } else {
    normed_ = result.normed;
  }
  // A row predicts the token behind the next.
  std::vector<std::vector<std::uint32_t>> next;
  next.reserve(sequences.size());
  for (const auto& tokens : sequences) next.emplace_back(tokens.begin() + 1, tokens.end());
  outputs_ = std::make_unique<OutputComparison>(next);
}

void ForwardComparison::AddLogits(std::uint64_t first, const Rows& logits,
                                  std::vector<LogitSummary>& of_a) {
  if (Diverges()) diverged_ = true;
  if (outputs_ == nullptr) return;
  if (!diverged_) return outputs_->Add(a_.weights, first, logits, logits, of_a);
  const WeightRows head = mtp_ ? mtp_->Head() : HeadOf(weights_, other_.config);
  const WeightRows slab = head.Part(first, logits.width);
  std::vector<float> scratch;
  const float* const in =
      modules_.InputOf(slab, normed_.values.data(), normed_.count(), normed_.width, scratch);
  Rows other(logits.count(), logits.width);
  weights_.Multiply(
      Product{slab, in, normed_.width, normed_.count(), other.values.data(), other.width});
  modules_.Round(other.values);
  (mtp_ ? mtp_->head_of_ranks() : head_).Correct(head, first, normed_, other);
  outputs_->Add(a_.weights, first, logits, other, of_a);
}

void ForwardComparison::EndLogits(const std::vector<LogitSummary>& of_a) {
  if (outputs_ == nullptr) return;
  if (mtp_) {
    report_.mtp_logits = outputs_->Figures(of_a);
  } else {
    report_.logits = outputs_->Figures(of_a);
    report_.top1_differences = outputs_->Top1Differences(of_a);
  }
  outputs_.reset();
}

ForwardComparisonReport ForwardComparison::Finish() {
  a_.weights.set_comparison(nullptr);
  if (comparison_ != nullptr) report_.differences = FindModuleDifferences(*comparison_);
  report_.bytes_read = weights_.bytes_read();
  return std::move(report_);
}

}  // namespace dsv3::convert
