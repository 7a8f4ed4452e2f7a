#include "convert/forward/forward.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "convert/forward/array_output.h"
#include "convert/forward/decoder_layer.h"
#include "convert/forward/head_of_ranks.h"
#include "convert/forward/model_parts.h"
#include "convert/forward/module_differences.h"
#include "convert/forward/output_head.h"
#include "convert/forward/ranks.h"
#include "convert/forward/rotary.h"
#include "convert/forward/token_ids.h"
#include "convert/model/forward_config.h"
#include "convert/model/layer_kinds.h"
#include "convert/open/open_model.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

using Tokens = std::vector<std::uint32_t>;

class Run {
 public:
  Run(const ForwardRequest& request, const OpenedModel& model, ProgressSink& progress,
      const StopToken& stop)
      : request_(request),
        config_(model.config),
        forward_(ParseForwardConfig(model.config_text, model.config, formats::kConfigName)),
        sequences_(request.sequences.empty()
                       ? std::vector<Tokens>{DefaultTokenIds(config_.vocab_size)}
                       : request.sequences),
        weights_(model, request.weights, request.threads, request.memory_bytes, progress, stop),
        modules_(weights_, request.activations),
        head_(modules_, config_, forward_),
        progress_(progress) {
    report_.directory = model.directory;
    report_.model_type = config_.model_type;
    report_.layers = config_.num_hidden_layers;
    CheckTokenIds(sequences_, config_.vocab_size);
    report_.sequences = sequences_.size();
    for (const Tokens& tokens : sequences_) report_.tokens += tokens.size();
    if (!request.mtp_logits.empty()) CheckMtp();
    if (!weights_.ranks()) return;
    report_.ranks = weights_.ranks()->sizes();
    copies_ = std::make_unique<WeightComparison>(ComparedModel{config_, forward_, weights_});
    weights_.set_comparison(copies_.get());
  }

  ForwardReport Execute(formats::FileSystem& fs) {
    const std::uint64_t tokens = report_.tokens;
    ArrayOutput logits(fs, request_.logits, {tokens, config_.vocab_size});
    ArrayOutput hidden(fs, request_.hidden,
                       {config_.num_hidden_layers + 1, tokens, config_.hidden_size});
    ArrayOutput mtp_logits(fs, request_.mtp_logits,
                           {tokens - sequences_.size(), config_.vocab_size});
    Prepare();
    progress_.OnPhase("running the model", (comparison_ ? 2 : 1) * BytesOf(tokens));
    Rows stream = RunLayers(sequences_, &hidden);
    Rows normed = Normed(sequences_, stream);
    if (comparison_) comparison_->OnNormed(stream, normed);
    stream = {};
    std::vector<LogitSummary> summaries = Summarize(normed, logits);
    TakePerplexity(summaries);
    TakeTop(summaries);
    if (mtp_logits) RunMtp(normed, mtp_logits);
    normed = {};
    EndComparison();
    Generate(summaries);
    CountExperts();
    report_.bytes_read += weights_.bytes_read();
    logits.Commit();
    hidden.Commit();
    mtp_logits.Commit();
    return std::move(report_);
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

  void CheckMtp() const {
    if (config_.num_nextn_predict_layers == 0) {
      throw Error(ErrorCode::kUsage,
                  "--mtp-logits-out: the model has no MTP layer; leave the option out");
    }
    for (const Tokens& tokens : sequences_) {
      if (tokens.size() > 1) continue;
      throw Error(ErrorCode::kUsage,
                  "--mtp-logits-out: an MTP layer predicts from a token and the one behind it, so "
                  "every sequence needs two tokens or more");
    }
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
    KeepKeysAndValues(config_, positions, request_.memory_bytes, caches_);
  }

  // About how many bytes of weights so many tokens read: all but the embedding and MTP layers, and
  // of the experts as many as the tokens choose at most.
  std::uint64_t BytesOf(std::uint64_t tokens) const {
    double bytes = 0;
    for (const CatalogTensor& tensor : weights_.catalog().tensors()) {
      const std::optional<std::uint64_t> layer = LayerOf(tensor.name, weights_.prefix());
      const bool is_embedding = tensor.name.ends_with("embed_tokens.weight");
      if (is_embedding || (layer && *layer >= config_.num_hidden_layers)) continue;
      const bool is_expert = tensor.name.find(".mlp.experts.") != std::string::npos;
      const double share =
          is_expert ? std::min(1.0, static_cast<double>(tokens * config_.num_experts_per_tok) /
                                        static_cast<double>(config_.n_routed_experts))
                    : 1.0;
      bytes += share * static_cast<double>(tensor.extent.length);
    }
    return static_cast<std::uint64_t>(bytes);
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
    if (comparison_) comparison_->OnEmbedded(sequences);
    if (hidden != nullptr) hidden->Write(0, stream.values);
    for (std::uint64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      LayerCache& cache = caches_[layer];
      cache.resize(sequences.size());
      RunLayer(layer, stream, batch, cache, hidden != nullptr);
      if (request_.generate < 2) cache = {};
      if (hidden != nullptr) hidden->Write((layer + 1) * stream.values.size(), stream.values);
    }
    return stream;
  }

  void RunLayer(std::uint64_t layer, Rows& stream, Batch& batch, LayerCache& cache,
                bool is_prompt) {
    std::vector<ExpertChoice> choices;
    DecoderLayer decoder(config_, forward_, *rotary_, request_.attention, modules_, layer);
    ForwardComparison* const comparison =
        layer < config_.num_hidden_layers ? comparison_.get() : nullptr;
    if (comparison != nullptr) comparison->BeforeLayer(stream, batch);
    decoder.Run(stream, batch, cache, choices);
    if (comparison != nullptr) {
      comparison->AfterLayer(layer, stream, batch, decoder.is_moe(), choices);
    }
    if (!decoder.is_moe()) return;
    std::vector<bool>& met = experts_met_[layer];
    met.resize(config_.n_routed_experts, false);
    for (const ExpertChoice& choice : choices) {
      for (const std::uint32_t expert : choice.experts) met[expert] = true;
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
  WeightRows Head() const { return HeadOf(weights_, config_); }

  // Logits of all rows, and what is kept of each.
  std::vector<LogitSummary> Summarize(const Rows& normed, ArrayOutput& output) {
    std::vector<LogitSummary> summaries;
    for (const Tokens& tokens : sequences_) {
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        const bool is_last = i + 1 == tokens.size();
        const bool has_target = !is_last && sequences_.size() == 1;
        summaries.emplace_back(is_last ? std::max<std::uint64_t>(request_.top, 1) : 0,
                               has_target ? std::optional(tokens[i + 1]) : std::nullopt,
                               has_target);
      }
    }
    VisitLogits(normed, Head(), summaries, output, comparison_.get(), &head_);
    return summaries;
  }

  void VisitLogits(const Rows& normed, const WeightRows& head, std::vector<LogitSummary>& summaries,
                   ArrayOutput& output, ForwardComparison* comparison = nullptr,
                   HeadOfRanks* of_ranks = nullptr) {
    const auto visit = [&](std::uint64_t first, const Rows& slab) {
      if (comparison != nullptr) comparison->AddLogits(first, slab);
      for (std::size_t row = 0; output && row < slab.count(); ++row) {
        output.Write(row * head.rows + first, {slab.row(row), slab.width});
      }
      weights_.ForEach(summaries.size(), [&](std::size_t row) {
        summaries[row].Add(first, {slab.row(row), slab.width});
      });
    };
    ComputeLogits(modules_, head, normed, visit, of_ranks);
  }

  void TakePerplexity(const std::vector<LogitSummary>& summaries) {
    if (sequences_.size() != 1 || summaries.size() < 2) return;
    double loss = 0;
    for (std::size_t i = 0; i + 1 < summaries.size(); ++i) loss += summaries[i].TargetLoss();
    report_.perplexity = std::exp(loss / static_cast<double>(summaries.size() - 1));
  }

  // The summary of each sequence's last row.
  std::vector<const LogitSummary*> LastOf(const std::vector<LogitSummary>& summaries) const {
    std::vector<const LogitSummary*> last;
    std::size_t end = 0;
    for (const Tokens& tokens : sequences_) {
      end += tokens.size();
      last.push_back(&summaries[end - 1]);
    }
    return last;
  }

  void TakeTop(const std::vector<LogitSummary>& summaries) {
    if (request_.top == 0) return;
    for (const LogitSummary* const last : LastOf(summaries)) {
      report_.top.emplace_back();
      for (const LogitSummary::Best& best : last->best()) {
        report_.top.back().push_back({best.token, best.logit});
      }
    }
  }

  // The input of the MTP layer at a position is the embedding of the next token beside the main
  // model's output there, each behind a norm.
  void RunMtp(const Rows& normed, ArrayOutput& output) {
    const std::uint64_t layer = config_.num_hidden_layers;
    const std::string name = fmt::format("model.layers.{}.", layer);
    const auto hidden = static_cast<std::size_t>(config_.hidden_size);
    Batch batch;
    Tokens next;
    Rows before(normed.count() - sequences_.size(), hidden);
    std::size_t row = 0;
    for (const Tokens& tokens : sequences_) {
      batch.sequences.push_back({next.size(), tokens.size() - 1, 0});
      for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
        std::copy_n(normed.row(row + i), hidden, before.row(next.size()));
        next.push_back(tokens[i + 1]);
      }
      row += tokens.size();
    }
    const bool has_copies = weights_.Has(name + "embed_tokens.weight");
    const Rows embedded =
        Embed(modules_, config_, has_copies ? name + "embed_tokens.weight" : kEmbeddingName, next);
    const auto norm = [&](const std::string& part, const Rows& in) {
      return modules_.RmsNorm(name + part, hidden, forward_.rms_norm_eps, in);
    };
    const Rows first = norm("enorm", embedded);
    const Rows second = norm("hnorm", before);
    Rows joined(next.size(), 2 * hidden);
    for (std::size_t i = 0; i < next.size(); ++i) {
      std::copy_n(first.row(i), hidden, joined.row(i));
      std::copy_n(second.row(i), hidden, joined.row(i) + hidden);
    }
    Rows stream = modules_.ApplyLinear(
        {weights_.Matrix(name + "eh_proj.weight", hidden, 2 * hidden)}, joined);
    LayerCache cache(sequences_.size());
    RunLayer(layer, stream, batch, cache, true);
    const Rows last = norm("shared_head.norm", stream);
    const std::string head = name + "shared_head.head.weight";
    std::vector<LogitSummary> none;
    VisitLogits(last,
                weights_.Has(head) ? weights_.Matrix(head, config_.vocab_size, config_.hidden_size)
                                   : Head(),
                none, output);
  }

  void Generate(const std::vector<LogitSummary>& summaries) {
    if (request_.generate == 0) return;
    std::vector<Tokens> next;
    for (const LogitSummary* const last : LastOf(summaries)) {
      next.push_back({last->best().front().token});
    }
    report_.generated = next;
    progress_.OnPhase("generating", (request_.generate - 1) * BytesOf(next.size()));
    ArrayOutput none;
    for (std::uint64_t step = 1; step < request_.generate; ++step) {
      const Rows normed = Normed(next, RunLayers(next, nullptr));
      std::vector<LogitSummary> of_step(next.size(), LogitSummary(1, std::nullopt, false));
      VisitLogits(normed, Head(), of_step, none, nullptr, &head_);
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
  std::vector<std::size_t> past_;                  // positions that ran, by sequence
  std::vector<std::vector<bool>> experts_met_;     // by layer; empty for one without experts
  std::unique_ptr<WeightComparison> copies_;       // of the ranks; nullptr without ranks
  std::unique_ptr<ForwardComparison> comparison_;  // nullptr: none, or it ended
  ProgressSink& progress_;
  ForwardReport report_;
};

OpenedModel OpenForRun(const ForwardRequest& request, const std::filesystem::path& input) {
  OpenOptions opening;
  opening.mtp_may_be_missing = true;
  opening.config = request.config;
  opening.takes_config = true;
  opening.from = request.from;
  return OpenModel(input, opening);
}

ComparisonOptions OptionsOf(const ForwardRequest& request) {
  ComparisonOptions options;
  options.weights = request.weights;
  options.activations = request.activations;
  options.attention = request.attention;
  options.replay_routing = request.replay_routing;
  options.threads = request.threads;
  options.memory_bytes = request.memory_bytes;
  return options;
}

// The error of the logits where the model's own activations are BF16.
double MeasureBF16(const ForwardRequest& request, const OpenedModel& model, formats::FileSystem& fs,
                   ProgressSink& progress, const StopToken& stop) {
  ForwardRequest plain;
  plain.sequences = request.sequences;
  plain.weights = request.weights;
  plain.activations = request.activations;
  plain.attention = request.attention;
  plain.threads = request.threads;
  plain.memory_bytes = request.memory_bytes;
  ComparisonOptions options = OptionsOf(plain);
  options.activations = ActivationValues::kBF16;
  options.compare_weights = false;
  Run run(plain, model, progress, stop);
  run.CompareWith(model, options, progress, stop);
  return run.Execute(fs).comparison->logits.nmse;
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
  Run run(request, model, progress, stop);
  if (other) run.CompareWith(*other, OptionsOf(request), progress, stop);
  ForwardReport report = run.Execute(fs);
  if (report.comparison && request.measure_bf16) {
    report.comparison->bf16_nmse = MeasureBF16(request, model, fs, progress, stop);
  }
  return report;
}

}  // namespace dsv3::convert
