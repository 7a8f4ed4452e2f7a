#include "tests/convert/support/rank_forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "quant/codec.h"

namespace dsv3::testing {
namespace {

using convert::ModelConfig;
using formats::Dtype;
using Kind = convert::ModuleKind;

template <typename T>
T Load(const char* bytes, std::uint64_t element) {
  T value;
  std::memcpy(&value, bytes + element * sizeof(T), sizeof(T));
  return value;
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

void Add(const Vector& term, double factor, Vector& sum) {
  ASSERT_EQ(term.size(), sum.size());
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += factor * term[i];
}

class Forward {
 public:
  Forward(const Deployment& deployment, const ModelConfig& config)
      : deployment_(deployment), c_(config) {}

  // The logits of the main model, then those of each MTP layer.
  std::vector<Vector> Run(std::uint64_t token) const {
    Vector x = Embed("model.embed_tokens.weight", 0, token);
    for (std::uint64_t layer = 0; layer < c_.num_hidden_layers; ++layer) Layer(layer, x);
    std::vector<Vector> logits = {Logits("lm_head.weight", c_.num_hidden_layers - 1,
                                         Norm("model.norm.weight", c_.num_hidden_layers - 1, x))};
    for (std::uint64_t i = 0; i < c_.num_nextn_predict_layers; ++i) {
      const std::uint64_t layer = c_.num_hidden_layers + i;
      const std::string name = fmt::format("model.layers.{}.", layer);
      Vector both = Norm(name + "enorm.weight", layer,
                         Embed(name + "embed_tokens.weight", layer, token + 1 + i));
      const Vector previous = Norm(name + "hnorm.weight", layer, x);
      both.insert(both.end(), previous.begin(), previous.end());
      x = Whole(name + "eh_proj.weight", layer, both);
      Layer(layer, x);
      logits.push_back(Logits(name + "shared_head.head.weight", layer,
                              Norm(name + "shared_head.norm.weight", layer, x)));
    }
    return logits;
  }

 private:
  // A product that every rank of the stage makes alone.
  Vector Whole(const std::string& name, std::uint64_t layer, const Vector& x) const {
    return deployment_.Of(Kind::kOther, layer, name).front()->Multiply(name, x);
  }

  Vector Norm(const std::string& name, std::uint64_t layer, Vector x) const {
    const Vector weight = deployment_.Of(Kind::kOther, layer, name).front()->Row(name, 0);
    EXPECT_LE(weight.size(), x.size());
    x.resize(weight.size());
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double factor = 1 / std::sqrt(squares / static_cast<double>(x.size()) + 1e-6);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= factor * weight[i];
    return x;
  }

  Vector Embed(const std::string& name, std::uint64_t layer, std::uint64_t token) const {
    std::uint64_t begin = 0;
    Vector found;
    for (const Weights* member : deployment_.Of(Kind::kEmbedding, layer, name)) {
      const std::uint64_t rows = member->Rows(name);
      if (token >= begin && token < begin + rows) found = member->Row(name, token - begin);
      begin += rows;
    }
    EXPECT_EQ((begin + 63) / 64, (c_.vocab_size + 63) / 64) << "the padding at most";
    return found;
  }

  Vector Logits(const std::string& name, std::uint64_t layer, const Vector& x) const {
    Vector logits;
    for (const Weights* member : deployment_.Of(Kind::kHead, layer, name)) {
      const Vector part = member->Multiply(name, x);
      logits.insert(logits.end(), part.begin(), part.end());
    }
    EXPECT_GE(logits.size(), c_.vocab_size);
    EXPECT_TRUE(std::all_of(logits.begin() + static_cast<std::ptrdiff_t>(c_.vocab_size),
                            logits.end(), [](double logit) { return logit == 0; }));
    logits.resize(c_.vocab_size);
    return logits;
  }

  void Layer(std::uint64_t layer, Vector& x) const {
    const std::string name = fmt::format("model.layers.{}.", layer);
    Attention(name + "self_attn.", layer, Norm(name + "input_layernorm.weight", layer, x), x);
    const Vector normed = Norm(name + "post_attention_layernorm.weight", layer, x);
    if (layer < c_.first_k_dense_replace) {
      Mlp(Kind::kDenseMlp, name + "mlp.", layer, normed, 1, x);
      return;
    }
    Mlp(Kind::kSharedExpert, name + "mlp.shared_experts.", layer, normed, 1, x);
    const Vector scores = Whole(name + "mlp.gate.weight", layer, normed);
    ASSERT_EQ(scores.size(), c_.n_routed_experts);
    for (std::uint64_t expert = 0; expert < c_.n_routed_experts; ++expert) {
      Mlp(Kind::kRoutedExpert, fmt::format("{}mlp.experts.{}.", name, expert), layer, normed,
          Sigmoid(scores[expert]), x);
    }
  }

  // Attention to the token itself, weighted by how its query and key agree.
  void Attention(const std::string& name, std::uint64_t layer, const Vector& x, Vector& sum) const {
    const Vector q_latent =
        Norm(name + "q_a_layernorm.weight", layer, Whole(name + "q_a_proj.weight", layer, x));
    const Vector kv_a = Whole(name + "kv_a_proj_with_mqa.weight", layer, x);
    const Vector kv_latent = Norm(name + "kv_a_layernorm.weight", layer, kv_a);
    const std::uint64_t nope = c_.qk_nope_head_dim;
    const std::uint64_t rope = c_.qk_rope_head_dim;
    const std::uint64_t v_dim = c_.v_head_dim;
    for (const Weights* member :
         deployment_.Of(Kind::kAttention, layer, name + "q_b_proj.weight")) {
      const Vector q = member->Multiply(name + "q_b_proj.weight", q_latent);
      const Vector kv = member->Multiply(name + "kv_b_proj.weight", kv_latent);
      const std::uint64_t heads = q.size() / (nope + rope);
      ASSERT_EQ(kv.size(), heads * (nope + v_dim));
      Vector values;
      for (std::uint64_t head = 0; head < heads; ++head) {
        const double* const query = &q[head * (nope + rope)];
        const double* const key = &kv[head * (nope + v_dim)];
        double agree = std::inner_product(query, query + nope, key, 0.0);
        for (std::uint64_t i = 0; i < rope; ++i) {
          agree += query[nope + i] * kv_a[c_.kv_lora_rank + i];
        }
        const double weight = Sigmoid(agree / std::sqrt(static_cast<double>(nope + rope)));
        for (std::uint64_t i = 0; i < v_dim; ++i) values.push_back(weight * key[nope + i]);
      }
      Add(member->Multiply(name + "o_proj.weight", values), 1, sum);
    }
  }

  void Mlp(Kind kind, const std::string& name, std::uint64_t layer, const Vector& x, double factor,
           Vector& sum) const {
    for (const Weights* member : deployment_.Of(kind, layer, name + "gate_proj.weight")) {
      Vector gate = member->Multiply(name + "gate_proj.weight", x);
      const Vector up = member->Multiply(name + "up_proj.weight", x);
      ASSERT_EQ(gate.size(), up.size());
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= Sigmoid(gate[i]) * up[i];
      Add(member->Multiply(name + "down_proj.weight", gate), factor, sum);
    }
  }

  const Deployment& deployment_;
  const ModelConfig& c_;
};

}  // namespace

Weights::Weights(std::map<std::string, HeldTensor> tensors, const ModelConfig& config,
                 const convert::ModuleList& rounded)
    : tensors_(std::move(tensors)), rounded_(rounded) {
  if (config.quantization) block_ = *config.quantization->weight_block_size;
  for (std::size_t i = 0; i < codes_.size(); ++i) {
    codes_[i] = quant::DecodeE4M3(static_cast<std::uint8_t>(i));
  }
}

Weights::Matrix Weights::Find(const std::string& name) const {
  const HeldTensor& weight = tensors_.at(name);
  Matrix matrix{.weight = weight, .cols = weight.shape.back()};
  if (weight.dtype == Dtype::kF8E4M3) {
    matrix.scales = &tensors_.at(name + "_scale_inv");
    matrix.rounds = rounded_.Names(convert::ModuleOf(name));
    EXPECT_EQ(matrix.scales->shape.at(1), (matrix.cols + block_.cols - 1) / block_.cols) << name;
  }
  return matrix;
}

void Weights::Decode(const Matrix& matrix, std::uint64_t row, Vector& values) const {
  values.resize(matrix.cols);
  const char* const bytes = matrix.weight.bytes.data();
  const std::uint64_t first = row * matrix.cols;
  switch (matrix.weight.dtype) {
    case Dtype::kF32:
      for (std::uint64_t i = 0; i < matrix.cols; ++i) values[i] = Load<float>(bytes, first + i);
      return;
    case Dtype::kBF16:
      for (std::uint64_t i = 0; i < matrix.cols; ++i) {
        values[i] = quant::DecodeBF16(Load<std::uint16_t>(bytes, first + i));
      }
      return;
    default:
      break;
  }
  const char* const scales = matrix.scales->bytes.data();
  const std::uint64_t first_scale = row / block_.rows * matrix.scales->shape[1];
  for (std::uint64_t i = 0; i < matrix.cols; ++i) {
    const float code = codes_[Load<std::uint8_t>(bytes, first + i)];
    const float scale = Load<float>(scales, first_scale + i / block_.cols);
    values[i] = matrix.rounds ? quant::DecodeBF16(quant::EncodeBF16(code * scale))
                              : static_cast<double>(code) * scale;
  }
}

Vector Weights::Row(const std::string& name, std::uint64_t row) const {
  Vector values;
  Decode(Find(name), row, values);
  return values;
}

Vector Weights::Multiply(const std::string& name, const Vector& x) const {
  const Matrix matrix = Find(name);
  EXPECT_EQ(matrix.cols, x.size()) << name;
  Vector product(Rows(name));
  Vector weights;
  for (std::uint64_t row = 0; row < product.size(); ++row) {
    Decode(matrix, row, weights);
    product[row] = std::inner_product(weights.begin(), weights.end(), x.begin(), 0.0);
  }
  return product;
}

std::uint64_t RankDeployment::WaysOf(convert::ModuleKind kind) const {
  const convert::Topology& t = report_.topology;
  switch (kind) {
    case Kind::kEmbedding:
    case Kind::kHead:
      return t.embed_tp;
    case Kind::kAttention:
      return t.tp;
    case Kind::kDenseMlp:
      return t.dense_tp;
    case Kind::kSharedExpert:
      return t.shared_expert_tp;
    case Kind::kRoutedExpert:
      return t.tp * t.dp / t.ep;
    case Kind::kOther:
      break;
  }
  return 1;
}

bool RankDeployment::IsReplicated(const std::string& weight) const {
  return std::any_of(report_.replicated_modules.begin(), report_.replicated_modules.end(),
                     [&](const std::string& unit) { return weight.starts_with(unit + "."); });
}

Group RankDeployment::Of(convert::ModuleKind kind, std::uint64_t layer,
                         const std::string& first) const {
  const std::uint64_t ways = WaysOf(kind);
  // Runs of ranks that hold the module; the others have no part of it at all.
  std::vector<Group> groups;
  for (std::uint64_t begin = 0; begin < ranks_.size(); begin += ways) {
    Group group;
    for (std::uint64_t rank = begin; rank < begin + ways; ++rank) {
      if (ranks_[rank]->Has(first)) group.push_back(ranks_[rank].get());
    }
    if (group.empty()) continue;
    EXPECT_EQ(group.size(), ways) << first;
    groups.push_back(group);
  }
  EXPECT_FALSE(groups.empty()) << first;
  Group group = groups.at(layer % groups.size());
  if (IsReplicated(first)) group = {group[layer % group.size()]};
  return group;
}

std::vector<Vector> RunForward(const Deployment& deployment, const ModelConfig& config,
                               std::uint64_t token) {
  return Forward(deployment, config).Run(token);
}

}  // namespace dsv3::testing
