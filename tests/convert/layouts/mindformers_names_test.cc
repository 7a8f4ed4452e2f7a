#include "convert/layouts/mindformers_names.h"

#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/layouts/mindformers_mcore_names.h"
#include "formats/error.h"
#include "tests/convert/layouts/element_model.h"
#include "tests/convert/support/conversion.h"

namespace dsv3::convert {
namespace {

using testing::ElementModel;
using testing::ExpectReadsElements;
using testing::ExpectWritesElements;
using ::testing::HasSubstr;

// The model's sizes: see SmallConfig and RopeConfig.
constexpr std::uint64_t kHidden = 8;
constexpr std::uint64_t kExperts = 4;
constexpr std::uint64_t kWidth = 6;  // of an expert
constexpr std::uint64_t kHeads = 2;
constexpr std::uint64_t kNope = 3;
constexpr std::uint64_t kRope = 6;
constexpr std::uint64_t kValue = 3;
constexpr std::uint64_t kLatent = 4;
constexpr std::uint64_t kQueryRank = 5;

// The row of a pair that is at this place of the sorted ones.
std::uint64_t Sorted(std::uint64_t row) { return 2 * (row % (kRope / 2)) + row / (kRope / 2); }

std::string Expert(const std::string& layer, std::uint64_t expert, const char* part) {
  return fmt::format("{}mlp.experts.{}.{}_proj.weight", layer, expert, part);
}

// [experts, rows, columns] of one tensor of each expert.
void Stacked(ElementModel& m, const std::string& name, const std::string& layer, const char* part) {
  const formats::Shape shape = m.ShapeOf(Expert(layer, 0, part));
  m.Add(name, {kExperts, shape[0], shape[1]}, [&](std::uint64_t i) {
    const std::uint64_t row = i / shape[1];
    return m.At(Expert(layer, row / shape[0], part), row % shape[0], i % shape[1]);
  });
}

// [experts, columns, rows], or the same elements in another shape.
void Transposed(ElementModel& m, const std::string& name, const std::string& layer,
                const char* part, formats::Shape declared = {}) {
  const formats::Shape shape = m.ShapeOf(Expert(layer, 0, part));
  if (declared.empty()) declared = {kExperts, shape[1], shape[0]};
  m.Add(name, declared, [&](std::uint64_t i) {
    const std::uint64_t col = i / shape[0];
    return m.At(Expert(layer, col / shape[1], part), i % shape[0], col % shape[1]);
  });
}

// [experts, hidden, gate and up], or the same elements in another shape.
void FusedTransposed(ElementModel& m, const std::string& name, const std::string& layer,
                     const formats::Shape& declared) {
  m.Add(name, declared, [&](std::uint64_t i) {
    const std::uint64_t expert = i / (2 * kWidth * kHidden);
    const std::uint64_t hidden = i / (2 * kWidth) % kHidden;
    const std::uint64_t c = i % (2 * kWidth);
    return c < kWidth ? m.At(Expert(layer, expert, "gate"), c, hidden)
                      : m.At(Expert(layer, expert, "up"), c - kWidth, hidden);
  });
}

enum class Form { kTrain, kTrainBmm, kInfer, kTrainToInfer };

void AddAttention(ElementModel& m, const std::string& to, const std::string& hf, Form form) {
  const std::string q_b = hf + "self_attn.q_b_proj.weight";
  const std::string kv_a = hf + "self_attn.kv_a_proj_with_mqa.weight";
  const std::string kv_b = hf + "self_attn.kv_b_proj.weight";
  constexpr std::uint64_t kHead = kNope + kRope;
  m.Same(to + "q2l_proj.weight", hf + "self_attn.q_a_proj.weight");
  m.Same(to + "lq_norm.weight", hf + "self_attn.q_a_layernorm.weight");
  m.Same(to + "lkv_norm.weight", hf + "self_attn.kv_a_layernorm.weight");
  m.Same(to + "wo.weight", hf + "self_attn.o_proj.weight");
  m.Rows(to + "lkv2kv_k_nope.weight", kHeads * kNope, kv_b,
         [](std::uint64_t i) { return i / kNope * (kNope + kValue) + i % kNope; });
  m.Rows(to + "lkv2kv_v.weight", kHeads * kValue, kv_b,
         [](std::uint64_t i) { return i / kValue * (kNope + kValue) + kNope + i % kValue; });
  if (form == Form::kTrain || form == Form::kTrainBmm) {
    m.Rows(to + "l2q_nope_proj.weight", kHeads * kNope, q_b,
           [](std::uint64_t i) { return i / kNope * kHead + i % kNope; });
    m.Rows(to + "l2q_pe_proj.weight", kHeads * kRope, q_b,
           [](std::uint64_t i) { return i / kRope * kHead + kNope + Sorted(i % kRope); });
    m.Rows(to + "kv2l_latent_kv.weight", kLatent, kv_a, [](std::uint64_t i) { return i; });
    m.Rows(to + "kv2l_k_pe.weight", kRope, kv_a,
           [](std::uint64_t i) { return kLatent + Sorted(i); });
    return;
  }
  m.Rows(to + "l2q_proj.weight", kHeads * kHead, q_b, [](std::uint64_t i) {
    return i % kHead < kNope ? i : i / kHead * kHead + kNope + Sorted(i % kHead - kNope);
  });
  m.Rows(to + "kv2l.weight", kLatent + kRope, kv_a,
         [](std::uint64_t i) { return i < kLatent ? i : kLatent + Sorted(i - kLatent); });
}

void AddExperts(ElementModel& m, const std::string& to, const std::string& hf, Form form) {
  if (form == Form::kTrain) {
    FusedTransposed(m, to + "ffn.w1", hf, {kExperts, kHidden, 2 * kWidth});
    return Transposed(m, to + "ffn.w2", hf, "down");
  }
  const auto add = form == Form::kTrainBmm
                       ? Stacked
                       : +[](ElementModel& model, const std::string& name, const std::string& layer,
                             const char* part) { Transposed(model, name, layer, part); };
  add(m, to + "ffn.w1.weight", hf, "gate");
  add(m, to + "ffn.w2.weight", hf, "down");
  add(m, to + "ffn.w3.weight", hf, "up");
}

void AddLayer(ElementModel& m, std::uint64_t layer, Form form) {
  const std::string hf = fmt::format("model.layers.{}.", layer);
  m.Same(hf + "attention_norm.weight", hf + "input_layernorm.weight");
  m.Same(hf + "ffn_norm.weight", hf + "post_attention_layernorm.weight");
  AddAttention(m, hf + "attention.", hf, form);
  const std::string ffn = hf + "feed_forward.";
  const auto mlp = [&](const std::string& to, const std::string& from) {
    m.Same(to + "w1.weight", from + "gate_proj.weight");
    m.Same(to + "w2.weight", from + "down_proj.weight");
    m.Same(to + "w3.weight", from + "up_proj.weight");
  };
  if (layer == 0) return mlp(ffn, hf + "mlp.");
  mlp(ffn + "shared_experts.", hf + "mlp.shared_experts.");
  const std::string routed = ffn + "routed_experts.";
  m.Same(routed + (form == Form::kTrain ? "router_dense.weight" : "router.dense.weight"),
         hf + "mlp.gate.weight");
  m.Same(routed + (form == Form::kTrain   ? "topk_bias"
                   : form == Form::kInfer ? "router.e_score_correction_bias"
                                          : "router.router.topk_bias"),
         hf + "mlp.gate.e_score_correction_bias");
  AddExperts(m, routed, hf, form);
}

ElementModel Mindformers(Form form) {
  ElementModel m;
  m.Same("model.tok_embeddings.embedding_weight", "model.embed_tokens.weight");
  m.Same("model.norm_out.weight", "model.norm.weight");
  m.Same("lm_head.weight", "lm_head.weight");
  for (std::uint64_t layer = 0; layer < 3; ++layer) AddLayer(m, layer, form);
  const std::string hf = "model.layers.2.";
  if (form == Form::kInfer) {
    m.Same(hf + "tok_embeddings.weight", hf + "embed_tokens.weight");
    for (const char* same : {"enorm.weight", "hnorm.weight", "eh_proj.weight",
                             "shared_head.norm.weight", "shared_head.head.weight"}) {
      m.Same(hf + same, hf + same);
    }
    return m;
  }
  m.Same("model.mtp_hidden_fusers.0.norm_emb.weight", hf + "enorm.weight");
  m.Same("model.mtp_hidden_fusers.0.norm.weight", hf + "hnorm.weight");
  m.Same("model.mtp_hidden_fusers.0.dense.weight", hf + "eh_proj.weight");
  m.Same("model.mtp_norms.0.weight", hf + "shared_head.norm.weight");
  return m;
}

TEST(MindformersNames, OfTrainingAreReadAndWritten) {
  const ElementModel model = Mindformers(Form::kTrain);
  ExpectReadsElements(MindformersTrainNames(), model);
  ExpectWritesElements(MindformersTrainNames(), model);
}

TEST(MindformersNames, OfTrainingWithoutGroupedProducts) {
  const ElementModel model = Mindformers(Form::kTrainBmm);
  ExpectReadsElements(MindformersTrainNames(), model);
  ExpectWritesElements(MindformersTrainNames(), model, {"bmm"});
}

TEST(MindformersNames, OfInferenceAreReadAndWritten) {
  const ElementModel model = Mindformers(Form::kInfer);
  ExpectReadsElements(MindformersInferNames(), model);
  ExpectWritesElements(MindformersInferNames(), model);
}

TEST(MindformersNames, OfInferenceMadeFromTraining) {
  ExpectReadsElements(MindformersInferNames(), Mindformers(Form::kTrainToInfer));
}

TEST(MindformersNames, RejectTheNamesOfTheOtherNetwork) {
  ElementModel model = Mindformers(Form::kTrainBmm);
  EXPECT_THAT(dsv3::testing::ErrorOf([&] {
                ReadLayout(MindformersInferNames(), model.config, model.stack);
              }).message(),
              HasSubstr("a weight would be lost"));

  // A piece is missing.
  std::erase_if(model.stack, [](const StackTensor& tensor) {
    return tensor.name == "model.layers.1.attention.l2q_pe_proj.weight";
  });
  const Error error = dsv3::testing::ErrorOf(
      [&] { ReadLayout(MindformersTrainNames(), model.config, model.stack); });
  EXPECT_EQ(error.place().tensor, "model.layers.1.self_attn.q_b_proj.weight");
  EXPECT_THAT(error.message(),
              HasSubstr("lacks 'model.layers.1.attention.l2q_pe_proj.weight', which"));

  // The networks' experts differ in shape alone.
  model = Mindformers(Form::kTrainBmm);
  for (StackTensor& tensor : model.stack) {
    if (tensor.name == "model.layers.1.feed_forward.routed_experts.ffn.w3.weight") {
      tensor.shape = {kExperts, kHidden, kWidth};
    }
  }
  EXPECT_THAT(dsv3::testing::ErrorOf([&] {
                ReadLayout(MindformersTrainNames(), model.config, model.stack);
              }).message(),
              HasSubstr("it has shape [4, 8, 6], but"));
}

enum class Core { kV1, kV1Local, kV2, kV2Concat };

void AddCoreLayer(ElementModel& m, const std::string& to, std::uint64_t layer, Core form) {
  const bool v1 = form == Core::kV1 || form == Core::kV1Local;
  const std::string hf = fmt::format("model.layers.{}.", layer);
  m.Same(to + "input_layernorm.weight", hf + "input_layernorm.weight");
  m.Same(to + "pre_mlp_layernorm.weight", hf + "post_attention_layernorm.weight");
  const std::string attention = to + "self_attention.";
  const std::string from = hf + "self_attn.";
  m.Same(attention + "q_layernorm.weight", from + "q_a_layernorm.weight");
  m.Same(attention + "linear_proj.weight", from + "o_proj.weight");
  if (form == Core::kV2) {
    m.Same(attention + "linear_q_down_proj.weight", from + "q_a_proj.weight");
    m.Same(attention + "linear_kv_down_proj.weight", from + "kv_a_proj_with_mqa.weight");
    m.Same(attention + "linear_q_up_proj.weight", from + "q_b_proj.weight");
    m.Same(attention + "linear_kv_up_proj.weight", from + "kv_b_proj.weight");
    m.Same(attention + "kv_layernorm.weight", from + "kv_a_layernorm.weight");
  } else {
    m.Add(attention + "linear_qkv.weight", {kQueryRank + kLatent + kRope, kHidden},
          [&](std::uint64_t i) {
            const std::uint64_t row = i / kHidden;
            return row < kQueryRank
                       ? m.At(from + "q_a_proj.weight", row, i % kHidden)
                       : m.At(from + "kv_a_proj_with_mqa.weight", row - kQueryRank, i % kHidden);
          });
    m.Same(attention + "linear_qb.weight", from + "q_b_proj.weight");
    m.Same(attention + "linear_kvb.weight", from + "kv_b_proj.weight");
    m.Same(attention + "k_layernorm.weight", from + "kv_a_layernorm.weight");
  }
  const auto mlp = [&](const std::string& name, const std::string& source, bool takes_turns) {
    const std::uint64_t width = m.ShapeOf(source + "gate_proj.weight")[0];
    m.Add(name + "linear_fc1.weight", {2 * width, kHidden}, [&](std::uint64_t i) {
      const std::uint64_t row = i / kHidden;
      const bool is_up = takes_turns ? row % 2 == 1 : row >= width;
      return m.At(source + (is_up ? "up_proj.weight" : "gate_proj.weight"),
                  takes_turns ? row / 2 : row % width, i % kHidden);
    });
    m.Same(name + "linear_fc2.weight", source + "down_proj.weight");
  };
  if (layer == 0) return mlp(to + "mlp.", hf + "mlp.", !v1);
  mlp(to + "mlp.shared_experts.", hf + "mlp.shared_experts.", !v1);
  m.Same(to + "mlp.router.weight", hf + "mlp.gate.weight");
  m.Same(to + "mlp.router.expert_bias", hf + "mlp.gate.e_score_correction_bias");
  if (form == Core::kV1Local) {
    for (std::uint64_t e = 0; e < kExperts; ++e) {
      mlp(fmt::format("{}mlp.experts.local_experts.{}.", to, e),
          fmt::format("{}mlp.experts.{}.", hf, e), false);
    }
    return;
  }
  FusedTransposed(m, to + "mlp.experts.weight1", hf,
                  v1 ? formats::Shape{kHidden, kExperts * 2 * kWidth}
                     : formats::Shape{kExperts * kHidden, 2 * kWidth});
  Transposed(m, to + "mlp.experts.weight2", hf, "down", {kExperts * kWidth, kHidden});
}

ElementModel MindformersCore(Core form, const char* norm = "decoder.final_layernorm.weight") {
  ElementModel m;
  m.Same("embedding.word_embeddings.weight", "model.embed_tokens.weight");
  m.Same(norm, "model.norm.weight");
  m.Same("output_layer.weight", "lm_head.weight");
  AddCoreLayer(m, "decoder.layers.0.", 0, form);
  AddCoreLayer(m, "decoder.layers.1.", 1, form);
  AddCoreLayer(m, "mtp.layers.0.transformer_layer.", 2, form);
  for (const char* same : {"enorm.weight", "hnorm.weight", "eh_proj.weight"}) {
    m.Same(std::string("mtp.layers.0.") + same, std::string("model.layers.2.") + same);
  }
  m.Same("mtp.layers.0.final_layernorm.weight", "model.layers.2.shared_head.norm.weight");
  return m;
}

TEST(MindformersMcoreNames, OfV1AreReadAndWritten) {
  const ElementModel model = MindformersCore(Core::kV1);
  ExpectReadsElements(MindformersMcoreV1Names(), model);
  ExpectWritesElements(MindformersMcoreV1Names(), model);
}

TEST(MindformersMcoreNames, OfV1WithATensorForEachExpert) {
  const ElementModel model = MindformersCore(Core::kV1Local, "decoder.final_norm.weight");
  ExpectReadsElements(MindformersMcoreV1Names(), model);
  ExpectWritesElements(MindformersMcoreV1Names(), model, {"local-experts", "final-norm"});
}

TEST(MindformersMcoreNames, OfV2AreReadAndWritten) {
  ElementModel model = MindformersCore(Core::kV2);
  ExpectWritesElements(MindformersMcoreV2Names(), model);
  for (const char* ignored : {"mtp.output_layer.weight", "decoder.layers.1.mlp.router.fi_accu",
                              "adam_m.decoder.layers.1.mlp.router.weight"}) {
    model.stack.push_back({ignored, {1}});
    model.stack_values.push_back({0});
  }
  ExpectReadsElements(MindformersMcoreV2Names(), model);
  EXPECT_EQ(TotalOf(ReadLayout(MindformersMcoreV2Names(), model.config, model.stack).skipped), 3U);
}

TEST(MindformersMcoreNames, OfV2AfterTraining) {
  const ElementModel model = MindformersCore(Core::kV2Concat);
  ExpectReadsElements(MindformersMcoreV2Names(), model);
  ExpectWritesElements(MindformersMcoreV2Names(), model, {"qkv-concat"});
}

TEST(MindformersNames, SayWhatIsF32) {
  const auto& train = MindformersTrainNames();
  EXPECT_TRUE(IsStoredAsF32(train, "model.layers.1.attention.lq_norm.weight"));
  EXPECT_TRUE(IsStoredAsF32(train, "model.layers.1.feed_forward.routed_experts.topk_bias"));
  EXPECT_TRUE(
      IsStoredAsF32(train, "model.layers.1.feed_forward.routed_experts.router.dense.weight"));
  EXPECT_FALSE(
      IsStoredAsF32(train, "model.layers.1.feed_forward.routed_experts.router_dense.weight"));
  EXPECT_FALSE(IsStoredAsF32(MindformersInferNames(), "model.layers.1.attention_norm.weight"));
  EXPECT_TRUE(IsStoredAsF32(MindformersMcoreV1Names(), "decoder.layers.1.input_layernorm.weight"));
  EXPECT_FALSE(IsStoredAsF32(MindformersMcoreV1Names(), "decoder.layers.1.mlp.router.expert_bias"));
  EXPECT_FALSE(IsStoredAsF32(MindformersMcoreV2Names(), "decoder.layers.1.input_layernorm.weight"));
  EXPECT_TRUE(IsStoredAsF32(MindformersMcoreV2Names(), "decoder.layers.1.mlp.router.expert_bias"));
}

}  // namespace
}  // namespace dsv3::convert
