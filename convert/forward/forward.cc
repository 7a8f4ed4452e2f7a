#include "convert/forward/forward.h"

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "convert/forward/decoder_layer.h"
#include "convert/forward/head_of_ranks.h"
#include "convert/forward/logit_summaries.h"
#include "convert/forward/model_parts.h"
#include "convert/forward/module_differences.h"
#include "convert/forward/mtp_layer.h"
#include "convert/forward/output_head.h"
#include "convert/forward/ranks.h"
#include "convert/forward/rotary.h"
#include "convert/forward/run_outputs.h"
#include "convert/forward/token_ids.h"
#include "convert/model/forward_config.h"
#include "convert/open/base_tensors.h"
#include "convert/open/open_model.h"
#include "convert/stream/value_checks.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

using Tokens = std::vector<std::uint32_t>;

class Run {
 public:
  Run(const ForwardRequest& request, const OpenedModel& model, std::vector<Tokens> sequences,
      ProgressSink& progress, const StopToken& stop)
      : request_(request),
        config_(model.config),
        forward_(ParseForwardConfig(model.config_text, model.config, formats::kConfigName)),
        sequences_(std::move(sequences)),
        weights_(model, request.weights, request.threads, request.memory_bytes, progress, stop),
        modules_(weights_, request.activations),
        head_(modules_, config_, forward_, kFinalNormName),
        progress_(progress) {
    report_.directory = model.directory;
    report_.model_type = config_.model_type;
    report_.layers = config_.num_hidden_layers;
    CheckTokenIds(sequences_, config_.vocab_size);
    report_.sequences = sequences_.size();
    for (const Tokens& tokens : sequences_) report_.tokens += tokens.size();
    if (!request.mtp_logits.empty()) RequireMtp(config_, sequences_);
    if (!weights_.ranks()) return;
    report_.ranks = weights_.ranks()->sizes();
    copies_ = std::make_unique<WeightComparison>(ComparedModel{config_, forward_, weights_});
    weights_.set_comparison(copies_.get());
  }

  // With `needs_all_experts` nothing, as soon as a layer has an expert that no token met; then
  // nothing is written.
  std::optional<ForwardReport> Execute(formats::FileSystem& fs, bool needs_all_experts = false) {
    needs_all_experts_ = needs_all_experts;
    const std::uint64_t tokens = report_.tokens;
    RunOutputs outputs(fs, request_, config_, weights_, tokens, tokens - sequences_.size());
    modules_.set_outputs(outputs.OfModules());
    Prepare();
    progress_.OnPhase("running the model",
                      (comparison_ ? 2 : 1) * EstimateBytes(weights_, config_, tokens));
    Rows stream = RunLayers(sequences_, &outputs.hidden);
    if (lacks_experts_) return std::nullopt;
    Rows normed = Normed(sequences_, stream);
    if (comparison_) comparison_->OnNormed(stream, normed);
    stream = {};
    std::vector<LogitSummary> summaries =
        SummariesOf(sequences_, request_.top, comparison_ != nullptr);
    VisitLogits(normed, MainHead(), summaries, outputs.logits, head_);
    // Modules on another program's inputs are no run of this model.
    if (sequences_.size() == 1 && request_.against.empty()) {
      report_.perplexity = PerplexityOf(summaries);
    }
    if (request_.top != 0) report_.top = TopOf(LastOf(sequences_, summaries), request_.top);
    if (outputs.mtp_logits) RunMtp(normed, outputs.mtp_logits);
    if (lacks_experts_) return std::nullopt;
    normed = {};
    EndComparison();
    if (outputs.against) report_.against = outputs.against->Finish();
    modules_.set_outputs({});
    Generate(summaries);
    CountExperts();
    report_.bytes_read += weights_.bytes_read();
    outputs.Commit();
    return std::move(report_);
  }

  std::uint64_t bytes_read() const {
    return weights_.bytes_read() + (comparison_ ? comparison_->bytes_read() : 0);
  }

  // Compares the model with another while it runs.
  void CompareWith(const OpenedModel& other, const ComparisonOptions& options,
                   ProgressSink& progress, const StopToken& stop) {
    comparison_ = std::make_unique<ForwardComparison>(ComparedModel{config_, forward_, weights_},
                                                      other, options, progress, stop);
  }

 private:
  void EndComparison() {
    weights_.set_comparison(nullptr);
    if (!comparison_) {
      if (copies_) report_.rank_differences = FindModuleDifferences(*copies_);
      return;
    }
    report_.comparison = comparison_->Finish();
    report_.bytes_read += report_.comparison->bytes_read;
    comparison_.reset();
  }

  void Prepare() {
    std::size_t longest = 0;
    for (const Tokens& tokens : sequences_) longest = std::max(longest, tokens.size());
    rotary_.emplace(forward_, config_.qk_rope_head_dim,
                    longest + static_cast<std::size_t>(request_.generate));
    const std::uint64_t layers = config_.num_hidden_layers + config_.num_nextn_predict_layers;
    experts_met_.resize(layers);
    caches_.assign(config_.num_hidden_layers, {});
    past_.assign(sequences_.size(), 0);
    PrepareCaches();
  }

  void PrepareCaches() {
    if (request_.generate < 2 || request_.attention != AttentionForm::kNaive) return;
    std::vector<std::size_t> positions;
    for (const Tokens& tokens : sequences_) {
      positions.push_back(tokens.size() + static_cast<std::size_t>(request_.generate));
    }
    unused_bytes_ = KeepKeysAndValues(config_, positions, request_.memory_bytes, caches_);
  }

  // The stream behind the last layer. Sequences that were begun before go on where they ended.
  Rows RunLayers(const std::vector<Tokens>& sequences, ArrayOutput* hidden) {
    Batch batch;
    Tokens all;
    for (std::size_t s = 0; s < sequences.size(); ++s) {
      batch.sequences.push_back({all.size(), sequences[s].size(), past_[s]});
      past_[s] += sequences[s].size();
      all.insert(all.end(), sequences[s].begin(), sequences[s].end());
    }
    Rows stream = EmbedOnRanks(modules_, config_, kEmbeddingName, all, batch.sequences);
    modules_.Emit("model.embed_tokens", stream);
    if (comparison_) comparison_->OnEmbedded(sequences);
    if (hidden != nullptr) hidden->Write(0, stream.values);
    for (std::uint64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      LayerCache& cache = caches_[layer];
      cache.resize(sequences.size());
      RunLayer(layer, stream, batch, cache, hidden != nullptr);
      if (lacks_experts_) return stream;
      if (request_.generate < 2) cache = {};
      if (hidden != nullptr) hidden->Write((layer + 1) * stream.values.size(), stream.values);
    }
    return stream;
  }

  void RunLayer(std::uint64_t layer, Rows& stream, Batch& batch, LayerCache& cache,
                bool is_prompt) {
    std::vector<ExpertChoice> choices;
    DecoderLayer decoder(config_, forward_, *rotary_, request_.attention, modules_, layer);
    if (comparison_) comparison_->BeforeLayer(stream, batch);
    decoder.Run(stream, batch, cache, choices);
    if (comparison_) comparison_->AfterLayer(layer, stream, batch, decoder.is_moe(), choices);
    NoteChoices(layer, decoder.is_moe(), choices, is_prompt);
  }

  void NoteChoices(std::uint64_t layer, bool is_moe, std::vector<ExpertChoice>& choices,
                   bool is_prompt) {
    if (!is_moe) return;
    std::vector<bool>& met = experts_met_[layer];
    met.resize(config_.n_routed_experts, false);
    for (const ExpertChoice& choice : choices) {
      for (const std::uint32_t expert : choice.experts) met[expert] = true;
    }
    if (needs_all_experts_ && is_prompt) {
      lacks_experts_ = lacks_experts_ || std::find(met.begin(), met.end(), false) != met.end();
    }
    if (!request_.routing || !is_prompt) return;
    LayerRouting routing;
    routing.layer = layer;
    for (ExpertChoice& choice : choices) {
      routing.experts.push_back(std::move(choice.experts));
      routing.margins.push_back(choice.margin);
    }
    report_.routing.push_back(std::move(routing));
  }

  Rows Normed(const std::vector<Tokens>& sequences, const Rows& stream) {
    std::vector<SequenceRows> rows;
    std::size_t first = 0;
    for (const Tokens& tokens : sequences) {
      rows.push_back({first, tokens.size(), 0});
      first += tokens.size();
    }
    return head_.Norm(stream, rows);
  }

  // The matrix of logits, and the module that it is.
  struct Head {
    WeightRows weight;
    std::string module;
  };
  Head MainHead() const { return {HeadOf(weights_, config_), "lm_head"}; }

  void VisitLogits(const Rows& normed, const Head& head, std::vector<LogitSummary>& summaries,
                   ArrayOutput& output, HeadOfRanks& of_ranks) {
    const auto visit = [&](std::uint64_t first, Rows& slab) {
      modules_.Emit(head.module, slab, 0, first);
      for (std::size_t row = 0; output && row < slab.count(); ++row) {
        output.Write(row * head.weight.rows + first, {slab.row(row), slab.width});
      }
      if (comparison_) return comparison_->AddLogits(first, slab, summaries);
      weights_.ForEach(summaries.size(), [&](std::size_t row) {
        summaries[row].Add(first, {slab.row(row), slab.width});
      });
    };
    ComputeLogits(modules_, head.weight, normed, visit, of_ranks);
    if (comparison_) comparison_->EndLogits(summaries);
  }

  void RunMtp(const Rows& normed, ArrayOutput& output) {
    MtpLayer mtp(config_, forward_, *rotary_, request_.attention, modules_);
    MtpLayer::Result result = mtp.Run(sequences_, normed, head_.normed_of_ranks());
    if (comparison_) comparison_->OnMtp(sequences_, result);
    NoteChoices(mtp.layer(), result.is_moe, result.choices, true);
    // A row predicts the token behind the next.
    std::vector<Tokens> next;
    for (const Tokens& tokens : sequences_) next.emplace_back(tokens.begin() + 1, tokens.end());
    std::vector<LogitSummary> summaries = SummariesOf(next, request_.top, comparison_ != nullptr);
    VisitLogits(result.normed, {mtp.Head(), mtp.HeadName()}, summaries, output,
                mtp.head_of_ranks());
  }

  void Generate(const std::vector<LogitSummary>& summaries) {
    if (request_.generate == 0) return;
    std::vector<Tokens> next;
    for (const LogitSummary* const last : LastOf(sequences_, summaries)) {
      next.push_back({last->best().front().token});
    }
    report_.generated = next;
    progress_.OnPhase("generating",
                      (request_.generate - 1) * EstimateBytes(weights_, config_, next.size()));
    ArrayOutput none;
    weights_.KeepRows(unused_bytes_);
    for (std::uint64_t step = 1; step < request_.generate; ++step) {
      const Rows normed = Normed(next, RunLayers(next, nullptr));
      std::vector<LogitSummary> of_step(next.size(), LogitSummary(1, std::nullopt, false));
      VisitLogits(normed, MainHead(), of_step, none, head_);
      for (std::size_t s = 0; s < next.size(); ++s) {
        next[s] = {of_step[s].best().front().token};
        report_.generated[s].push_back(next[s].front());
      }
    }
  }

  void CountExperts() {
    for (const std::vector<bool>& met : experts_met_) {
      report_.experts += met.size();
      report_.experts_read += static_cast<std::uint64_t>(std::count(met.begin(), met.end(), true));
    }
  }

  const ForwardRequest& request_;
  const ModelConfig& config_;
  const ForwardConfig forward_;
  const std::vector<Tokens> sequences_;
  ModelWeights weights_;
  Modules modules_;
  HeadOfRanks head_;
  std::optional<Rotary> rotary_;
  std::vector<LayerCache> caches_;                 // by layer, where tokens are generated
  std::uint64_t unused_bytes_ = 0;                 // of the memory for keys and values
  std::vector<std::size_t> past_;                  // positions that ran, by sequence
  std::vector<std::vector<bool>> experts_met_;     // by layer; empty for one without experts
  std::unique_ptr<WeightComparison> copies_;       // of the ranks; nullptr without ranks
  std::unique_ptr<ForwardComparison> comparison_;  // nullptr: none, or it ended
  bool needs_all_experts_ = false;
  bool lacks_experts_ = false;
  ProgressSink& progress_;
  ForwardReport report_;
};

OpenedModel OpenForRun(const ForwardRequest& request, const std::filesystem::path& input) {
  OpenOptions opening;
  opening.mtp_may_be_missing = true;
  opening.config = request.config;
  opening.takes_config = true;
  opening.from = request.from;
  opening.base = request.base;
  return OpenModel(input, opening);
}

ComparisonOptions OptionsOf(const ForwardRequest& request) {
  ComparisonOptions options;
  static_cast<RunSettings&>(options) = static_cast<const RunSettings&>(request);
  options.replay_routing = request.replay_routing;
  return options;
}

// A request that has nothing of this one but the arithmetic.
ForwardRequest PlainRequest(const ForwardRequest& request) {
  ForwardRequest plain;
  static_cast<RunSettings&>(plain) = static_cast<const RunSettings&>(request);
  return plain;
}

// The error of the logits where the model's own activations are BF16.
double MeasureBF16(const ForwardRequest& request, const OpenedModel& model,
                   const std::vector<Tokens>& sequences, formats::FileSystem& fs,
                   ProgressSink& progress, const StopToken& stop) {
  const ForwardRequest plain = PlainRequest(request);
  ComparisonOptions options = OptionsOf(plain);
  options.activations = ActivationValues::kBF16;
  options.compare_weights = false;
  Run run(plain, model, sequences, progress, stop);
  run.CompareWith(model, options, progress, stop);
  return run.Execute(fs)->comparison->logits.nmse;
}

// What the other model generates from the same tokens.
GeneratedComparison GenerateBy(const OpenedModel& other, const ForwardRequest& request,
                               const std::vector<Tokens>& sequences, ForwardReport& report,
                               formats::FileSystem& fs, ProgressSink& progress,
                               const StopToken& stop) {
  ForwardRequest plain = PlainRequest(request);
  plain.generate = request.generate;
  ForwardReport ran = *Run(plain, other, sequences, progress, stop).Execute(fs);
  report.bytes_read += ran.bytes_read;
  return CompareGenerated(report.generated, std::move(ran.generated));
}

}  // namespace

ForwardReport RunForward(const ForwardRequest& request, formats::FileSystem& fs,
                         ProgressSink& progress, const StopToken& stop) {
  const OpenedModel model = OpenForRun(request, request.input);
  std::optional<OpenedModel> other;
  if (!request.other.empty()) other = OpenForRun(request, request.other);
  // One of two may need the config or the stack.
  if (!other || (!model.config_given && model.training.stack.empty())) {
    RequireUsed({.config = request.config, .from = request.from}, other ? *other : model);
  }
  RequireBaseRead(request.base,
                  ReadsBase(TensorsOf(model)) || (other && ReadsBase(TensorsOf(*other))));
  CheckValues(TensorsOf(model).derived, std::nullopt, request.threads, progress, stop);
  if (other) {
    CheckValues(TensorsOf(*other).derived, std::nullopt, request.threads, progress, stop);
  }
  std::uint64_t bytes_before = 0;
  for (std::size_t tokens = kDefaultTokens;; tokens *= 2) {
    const std::vector<Tokens> sequences = request.sequences.empty()
                                              ? FixedTokenIds(model.config.vocab_size, tokens)
                                              : request.sequences;
    Run run(request, model, sequences, progress, stop);
    if (other) run.CompareWith(*other, OptionsOf(request), progress, stop);
    std::optional<ForwardReport> report =
        run.Execute(fs, request.auto_tokens && tokens < kMostAutoTokens);
    if (!report) {
      bytes_before += run.bytes_read();
      continue;
    }
    report->bytes_read += bytes_before;
    if (other && request.generate > 0) {
      report->comparison->generated =
          GenerateBy(*other, request, sequences, *report, fs, progress, stop);
    }
    if (report->comparison && request.measure_bf16) {
      report->comparison->bf16_nmse = MeasureBF16(request, model, sequences, fs, progress, stop);
    }
    return *std::move(report);
  }
}

}  // namespace dsv3::convert
