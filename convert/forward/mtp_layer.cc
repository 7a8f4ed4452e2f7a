#include "convert/forward/mtp_layer.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "convert/forward/decoder_layer.h"
#include "convert/forward/model_parts.h"
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
      name_(fmt::format("model.layers.{}.", config.num_hidden_layers)) {}

Rows MtpLayer::Norm(const char* part, const Rows& in) {
  return modules_.RmsNorm(name_ + part, config_.hidden_size, forward_.rms_norm_eps, in);
}

// The embedding of the next token beside the main model's output, each behind a norm.
Rows MtpLayer::Joined(const std::vector<std::uint32_t>& next, const Rows& before) {
  const std::string own = name_ + "embed_tokens.weight";
  const Rows embedded =
      Embed(modules_, config_, modules_.weights().Has(own) ? own : kEmbeddingName, next);
  const Rows first = Norm("enorm", embedded);
  const Rows second = Norm("hnorm", before);
  const std::size_t hidden = before.width;
  Rows joined(next.size(), 2 * hidden);
  for (std::size_t i = 0; i < next.size(); ++i) {
    std::copy_n(first.row(i), hidden, joined.row(i));
    std::copy_n(second.row(i), hidden, joined.row(i) + hidden);
  }
  return joined;
}

MtpLayer::Result MtpLayer::Run(const std::vector<std::vector<std::uint32_t>>& sequences,
                               const Rows& normed, const Result* replay) {
  const std::size_t hidden = normed.width;
  Batch batch;
  std::vector<std::uint32_t> next;
  Rows before(normed.count() - sequences.size(), hidden);
  std::size_t row = 0;
  for (const std::vector<std::uint32_t>& tokens : sequences) {
    batch.sequences.push_back({next.size(), tokens.size() - 1, 0});
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      std::copy_n(normed.row(row + i), hidden, before.row(next.size()));
      next.push_back(tokens[i + 1]);
    }
    row += tokens.size();
  }
  if (replay != nullptr) batch.keys = replay->keys;
  Rows stream = modules_.ApplyLinear(
      {modules_.weights().Matrix(name_ + "eh_proj.weight", hidden, 2 * hidden)},
      Joined(next, before));
  LayerCache cache(sequences.size());
  DecoderLayer decoder(config_, forward_, rotary_, form_, modules_, layer());
  Result result;
  result.is_moe = decoder.is_moe();
  const bool replays = replay != nullptr && replay->is_moe == result.is_moe;
  decoder.Run(stream, batch, cache, result.choices, replays ? &replay->choices : nullptr);
  result.keys = std::move(batch.keys);
  result.normed = Norm("shared_head.norm", stream);
  return result;
}

WeightRows MtpLayer::Head() const {
  const ModelWeights& weights = modules_.weights();
  const std::string own = HeadName() + ".weight";
  return weights.Has(own) ? weights.Matrix(own, config_.vocab_size, config_.hidden_size)
                          : HeadOf(weights, config_);
}

}  // namespace dsv3::convert
