#include "convert/layouts/torchtitan_names.h"

#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/convert/layouts/stack_model.h"

namespace dsv3::convert {
namespace {

using testing::ExpectReads;
using testing::ExpectRefuses;
using testing::ExpectWrites;
using testing::SmallConfig;
using testing::StackModel;

constexpr std::uint64_t kExperts = 4;

struct Generation {
  std::string head = "lm_head.weight";
  std::string bias = "moe.expert_bias_E";
  std::string experts = "moe.routed_experts.inner_experts.";
  bool named_axes = true;  // "w1_EFD"
};

void AddBlock(StackModel& model, const std::string& to, std::uint64_t layer, bool moe,
              const Generation& names) {
  const std::string from = fmt::format("model.layers.{}.", layer);
  model.Add(to + "attention_norm.weight", {8}, from + "input_layernorm.weight");
  model.Add(to + "attention.wq_a.weight", {5, 8}, from + "self_attn.q_a_proj.weight");
  model.Add(to + "attention.q_norm.weight", {5}, from + "self_attn.q_a_layernorm.weight");
  model.Add(to + "attention.wq_b.weight", {10, 5}, from + "self_attn.q_b_proj.weight");
  model.Add(to + "attention.wkv_a.weight", {6, 8}, from + "self_attn.kv_a_proj_with_mqa.weight");
  model.Add(to + "attention.kv_norm.weight", {4}, from + "self_attn.kv_a_layernorm.weight");
  model.Add(to + "attention.wkv_b.weight", {12, 4}, from + "self_attn.kv_b_proj.weight");
  model.Add(to + "attention.wo.weight", {8, 6}, from + "self_attn.o_proj.weight");
  model.Add(to + "ffn_norm.weight", {8}, from + "post_attention_layernorm.weight");
  const auto mlp = [&](const std::string& name, const std::string& hf, std::uint64_t width) {
    model.Add(to + name + "w1.weight", {width, 8}, from + hf + "gate_proj.weight");
    model.Add(to + name + "w2.weight", {8, width}, from + hf + "down_proj.weight");
    model.Add(to + name + "w3.weight", {width, 8}, from + hf + "up_proj.weight");
  };
  if (!moe) return mlp("feed_forward.", "mlp.", 12);
  mlp("moe.shared_experts.", "mlp.shared_experts.", 6);
  model.Add(to + "moe.router.gate.weight", {kExperts, 8}, from + "mlp.gate.weight");
  model.Add(to + names.bias, {kExperts}, from + "mlp.gate.e_score_correction_bias");
  const auto experts = [&](const std::string& name, const char* axes, const char* part,
                           const formats::Shape& shape) {
    std::vector<std::string> all;
    for (std::uint64_t e = 0; e < kExperts; ++e) {
      all.push_back(fmt::format("{}mlp.experts.{}.{}.weight", from, e, part));
    }
    model.AddRows(to + names.experts + name + (names.named_axes ? axes : ""), shape, all);
  };
  experts("w1", "_EFD", "gate_proj", {kExperts, 6, 8});
  experts("w2", "_EDF", "down_proj", {kExperts, 8, 6});
  experts("w3", "_EFD", "up_proj", {kExperts, 6, 8});
}

StackModel Torchtitan(const Generation& names = {}) {
  StackModel model;
  model.Add("tok_embeddings.weight", {32, 8}, "model.embed_tokens.weight");
  AddBlock(model, "layers.0.", 0, false, names);
  AddBlock(model, "layers.1.", 1, true, names);
  AddBlock(model, "mtp_layers.0.", 2, true, names);
  model.Add("mtp_layers.0.enorm.weight", {8}, "model.layers.2.enorm.weight");
  model.Add("mtp_layers.0.hnorm.weight", {8}, "model.layers.2.hnorm.weight");
  model.Add("mtp_layers.0.eh_proj.weight", {8, 16}, "model.layers.2.eh_proj.weight");
  model.Add("mtp_layers.0.mtp_norm.weight", {8}, "model.layers.2.shared_head.norm.weight");
  model.Add("norm.weight", {8}, "model.norm.weight");
  model.Add(names.head, {32, 8}, "lm_head.weight");
  model.copies = {{"model.layers.2.embed_tokens.weight", "model.embed_tokens.weight"},
                  {"model.layers.2.shared_head.head.weight", "lm_head.weight"}};
  return model;
}

TEST(TorchtitanNames, AreReadAndWritten) {
  const StackModel model = Torchtitan();
  ExpectReads(TorchtitanNames(), model);
  ExpectWrites(TorchtitanNames(), model);
}

TEST(TorchtitanNames, KnowTheFirstGeneration) {
  const StackModel model = Torchtitan({"output.weight", "moe.expert_bias", "moe.experts.", false});
  ExpectReads(TorchtitanNames(), model);
  ExpectWrites(TorchtitanNames(), model, {"output", "experts"});
}

TEST(TorchtitanNames, KnowTheSecondGeneration) {
  const StackModel model =
      Torchtitan({"lm_head.weight", "moe.expert_bias_E", "moe.experts.", true});
  ExpectReads(TorchtitanNames(), model);
  ExpectWrites(TorchtitanNames(), model, {"experts-efd"});
}

TEST(TorchtitanNames, KnowAPlainQueryProjection) {
  auto json = SmallConfig();
  json["q_lora_rank"] = nullptr;
  StackModel model = Torchtitan();
  model.config = ParseModelConfig(json.dump(), "config.json");
  model.Remove("wq_a");
  model.Remove("wq_b");
  model.Remove("q_norm");
  for (int layer = 0; layer < 3; ++layer) {
    model.Add(layer < 2 ? fmt::format("layers.{}.attention.wq.weight", layer)
                        : "mtp_layers.0.attention.wq.weight",
              {10, 8}, fmt::format("model.layers.{}.self_attn.q_proj.weight", layer));
  }
  ExpectReads(TorchtitanNames(), model);
  ExpectWrites(TorchtitanNames(), model);
}

TEST(TorchtitanNames, SkipWhatIsNotOfTheModel) {
  StackModel model = Torchtitan();
  for (const char* name : {"optimizer.state.layers.0.ffn_norm.weight.exp_avg", "lr_scheduler.step",
                           "train_state", "dataloader.dp_rank_0"}) {
    model.entries.push_back({name, {1}, {}});
  }
  ExpectReads(TorchtitanNames(), model);
  EXPECT_EQ(TotalOf(ReadLayout(TorchtitanNames(), model.config, model.Tensors()).skipped), 4U);
}

TEST(TorchtitanNames, TakeAModelWithoutMtpButNotWithAPartOfIt) {
  StackModel model = Torchtitan();
  model.Remove("mtp_layers.0.mtp_norm.weight");
  ExpectRefuses(TorchtitanNames(), model, "model.layers.2.shared_head.norm.weight",
                {"lacks 'mtp_layers.0.mtp_norm.weight'", "saved in part"});
  model.Remove("mtp_layers.");
  ExpectReads(TorchtitanNames(), model);
}

TEST(TorchtitanNames, RejectWhatDoesNotFitTheConfig) {
  StackModel model = Torchtitan();
  model.Remove("layers.1.moe.routed_experts.inner_experts.w3_EFD");
  ExpectRefuses(TorchtitanNames(), model, "model.layers.1.mlp.experts.0.up_proj.weight",
                {"lacks 'layers.1.moe.routed_experts.inner_experts.w3_EFD'"});

  model = Torchtitan({"lm_head.weight", "moe.expert_bias_E", "moe.experts.", true});
  model.Remove("layers.1.moe.experts.w3_EFD");
  ExpectRefuses(TorchtitanNames(), model, "model.layers.1.mlp.experts.0.up_proj.weight",
                {"lacks 'layers.1.moe.experts.w3_EFD'"});

  model = Torchtitan();
  model.Find("layers.1.moe.routed_experts.inner_experts.w2_EDF").shape = {kExperts, 6, 8};
  ExpectRefuses(TorchtitanNames(), model, "layers.1.moe.routed_experts.inner_experts.w2_EDF",
                {"shape [4, 6, 8]", "predicts [4, 8, 6]"});

  // torchtitan does not pad the vocabulary.
  model = Torchtitan();
  model.Find("tok_embeddings.weight").shape[0] = 40;
  ExpectRefuses(TorchtitanNames(), model, "tok_embeddings.weight",
                {"shape [40, 8]", "predicts [32, 8] for"});

  model = Torchtitan();
  model.entries.push_back({"layers.0.attention.sinks", {2}, {}});
  ExpectRefuses(TorchtitanNames(), model, "layers.0.attention.sinks",
                {"a weight would be lost", "torchtitan"});
}

}  // namespace
}  // namespace dsv3::convert
