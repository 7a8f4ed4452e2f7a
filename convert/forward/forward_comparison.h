#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/forward/decoder_layer.h"
#include "convert/forward/difference.h"
#include "convert/forward/head_of_ranks.h"
#include "convert/forward/model_weights.h"
#include "convert/forward/modules.h"
#include "convert/forward/mtp_layer.h"
#include "convert/forward/output_comparison.h"
#include "convert/forward/router.h"
#include "convert/forward/run_settings.h"
#include "convert/forward/weight_comparison.h"
#include "convert/open/open_model.h"

// The forward pass of a second model beside that of the first, layer by layer; an internal part of
// forward.h.
namespace dsv3::convert {

// How far the other model's own run is from this model's.
struct ForwardComparisonReport {
  std::filesystem::path directory;                  // of the other model; absolute
  std::optional<formats::RankLayout::Sizes> ranks;  // of the other model; nothing without ranks
  LogitFigures logits;
  std::vector<Top1Difference> top1_differences;
  std::optional<LogitFigures> mtp_logits;        // where both models ran their first MTP layer
  std::optional<GeneratedComparison> generated;  // where tokens were generated
  struct Layer {
    std::uint64_t layer = 0;
    double nmse = 0;  // of the stream behind the layer
    double cosine = 1;
  };
  std::vector<Layer> layers;
  std::uint64_t choices = 0;    // of the experts of a token in a layer
  std::uint64_t differing = 0;  // of these: another set of experts
  std::optional<double> smallest_margin;
  std::vector<ModuleDifference> differences;  // in the order of execution
  std::uint64_t bytes_read = 0;               // of the other model
  std::optional<double> bf16_nmse;            // of the logits, see ForwardRequest
};

// The settings are those of the other model.
struct ComparisonOptions : RunSettings {
  bool compare_weights = true;  // otherwise only the figures are made
  bool replay_routing = false;
};

// While nothing differs, the other model's stream is this one's, and it does not run. Calls follow
// the forward pass of the first model.
class ForwardComparison {
 public:
  // All arguments must outlive the object. Throws Error (kBadInput) for models that cannot be
  // compared, and what ModelWeights and ParseForwardConfig throw.
  ForwardComparison(const ComparedModel& a, const OpenedModel& other,
                    const ComparisonOptions& options, ProgressSink& progress,
                    const StopToken& stop);
  ~ForwardComparison();

  void OnEmbedded(const std::vector<std::vector<std::uint32_t>>& sequences);
  void BeforeLayer(const Rows& stream, const Batch& batch);
  void AfterLayer(std::uint64_t layer, const Rows& stream, const Batch& batch, bool is_moe,
                  const std::vector<ExpertChoice>& choices);
  void OnNormed(const Rows& stream, const Rows& normed);
  // A's first MTP layer ran; the logits that follow are its.
  void OnMtp(const std::vector<std::vector<std::uint32_t>>& sequences,
             const MtpLayer::Result& result);
  // Adds A's logits to `of_a`, a summary of each row, see OutputComparison.
  void AddLogits(std::uint64_t first, const Rows& logits, std::vector<LogitSummary>& of_a);
  // All logits were added.
  void EndLogits(const std::vector<LogitSummary>& of_a);
  std::uint64_t bytes_read() const { return weights_.bytes_read(); }  // of the other model
  // Compares no more, and gives the figures.
  ForwardComparisonReport Finish();

 private:
  void RunLayer(std::uint64_t layer, const Batch& batch, bool is_moe,
                const std::vector<ExpertChoice>& choices);
  bool Diverges();

  const ComparedModel a_;
  const OpenedModel& other_;
  const ComparisonOptions options_;
  const ForwardConfig forward_;
  ModelWeights weights_;
  Modules modules_;
  HeadOfRanks head_;
  std::unique_ptr<WeightComparison> comparison_;  // nullptr: weights are not compared
  std::unique_ptr<Rotary> rotary_;
  bool diverged_ = false;
  // The other model's where it diverged; else this one's, before the layer that runs.
  Rows stream_;
  KeyChoice keys_;
  std::vector<SequenceRows> sequences_;
  Rows normed_;                                // what the head multiplies
  std::optional<MtpLayer> mtp_;                // where the logits are its
  std::unique_ptr<OutputComparison> outputs_;  // nullptr: the other model has no such logits
  ForwardComparisonReport report_;
};

}  // namespace dsv3::convert
