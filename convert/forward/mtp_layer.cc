#include "convert/forward/mtp_layer.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "convert/forward/decoder_layer.h"
#include "convert/forward/model_parts.h"
#include "convert/forward/ranks.h"
#include "formats/error.h"

namespace dsv3::convert {

void RequireMtp(const ModelConfig& config,
                const std::vector<std::vector<std::uint32_t>>& sequences) {
  if (config.num_nextn_predict_layers == 0) {
    throw Error(ErrorCode::kUsage,
                "--mtp-logits-out: the model has no MTP layer; leave the option out");
  }
  for (const std::vector<std::uint32_t>& tokens : sequences) {
    if (tokens.size() > 1) continue;
    throw Error(ErrorCode::kUsage,
                "--mtp-logits-out: an MTP layer predicts from a token and the one behind it, so "
                "every sequence needs two tokens or more");
  }
}

MtpLayer::MtpLayer(const ModelConfig& config, const ForwardConfig& forward, const Rotary& rotary,
                   AttentionForm form, Modules& modules)
    : config_(config),
      forward_(forward),
      rotary_(rotary),
      form_(form),
      modules_(modules),
      name_(fmt::format("model.layers.{}.", config.num_hidden_layers)),
      head_(modules, config, forward, name_ + "shared_head.norm") {}

Rows MtpLayer::Enter(Modules& modules, const Rows& embedded, const Rows& before) {
  const std::size_t hidden = before.width;
  const auto norm = [&](const char* part, const Rows& in) {
    return modules.RmsNorm(name_ + part, hidden, forward_.rms_norm_eps, in);
  };
  const Rows first = norm("enorm", embedded);
  const Rows second = norm("hnorm", before);
  Rows joined(embedded.count(), 2 * hidden);
  for (std::size_t i = 0; i < joined.count(); ++i) {
    std::copy_n(first.row(i), hidden, joined.row(i));
    std::copy_n(second.row(i), hidden, joined.row(i) + hidden);
  }
  return modules.ApplyLinear(
      {modules.weights().Matrix(name_ + "eh_proj.weight", hidden, 2 * hidden)}, joined);
}

MtpLayer::Result MtpLayer::Run(const std::vector<std::vector<std::uint32_t>>& sequences,
                               const Rows& normed, const RowsOfRanks& normed_of_ranks,
                               const Result* replay) {
  Batch batch;
  std::vector<std::uint32_t> next;
  std::vector<std::size_t> places;  // of the rows in `normed`
  std::size_t row = 0;
  for (const std::vector<std::uint32_t>& tokens : sequences) {
    batch.sequences.push_back({next.size(), tokens.size() - 1, 0});
    next.insert(next.end(), tokens.begin() + 1, tokens.end());
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) places.push_back(row + i);
    row += tokens.size();
  }
  const auto before = [&](const Rows& all) {
    Rows some(places.size(), all.width);
    for (std::size_t i = 0; i < places.size(); ++i) {
      std::copy_n(all.row(places[i]), all.width, some.row(i));
    }
    return some;
  };
  const std::string own = name_ + "embed_tokens.weight";
  const Rows embedded = EmbedOnRanks(
      modules_, config_, modules_.weights().Has(own) ? own : kEmbeddingName, next, batch.sequences);
  Ranks* const ranks = modules_.weights().ranks().get();
  if (ranks != nullptr) ranks->TakeDiffering();
  Rows stream = Enter(modules_, embedded, before(normed));
  if (ranks != nullptr) {
    for (const std::uint32_t rank : TakeRanksToRun(*ranks, normed_of_ranks)) {
      const auto of_rank = normed_of_ranks.find(rank);
      Modules modules(modules_.weights().OfRank(rank), modules_.activations());
      const Rows entered = Enter(
          modules, embedded, before(of_rank == normed_of_ranks.end() ? normed : of_rank->second));
      Rows& all = batch.streams_of_ranks[rank] = stream;
      for (std::size_t s = 0; s < batch.sequences.size(); ++s) {
        if (s % ranks->sizes().dp != ranks->At(rank).dp_rank) continue;
        const SequenceRows& rows = batch.sequences[s];
        std::copy_n(entered.row(rows.first), rows.count * all.width, all.row(rows.first));
      }
    }
  }
  LayerCache cache(sequences.size());
  DecoderLayer decoder(config_, forward_, rotary_, form_, modules_, layer());
  Result result;
  result.is_moe = decoder.is_moe();
  const bool replays = replay != nullptr && replay->is_moe == result.is_moe;
  decoder.Run(stream, batch, cache, result.choices, replays ? &replay->choices : nullptr);
  result.keys = std::move(batch.keys);
  result.normed = head_.Norm(stream, batch.sequences, batch.streams_of_ranks);
  return result;
}

WeightRows MtpLayer::Head() const {
  const ModelWeights& weights = modules_.weights();
  const std::string own = HeadName() + ".weight";
  return weights.Has(own) ? weights.Matrix(own, config_.vocab_size, config_.hidden_size)
                          : HeadOf(weights, config_);
}

}  // namespace dsv3::convert
