#include "convert/layouts/gguf_names.h"

#include <set>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

using Kind = GgufMeaning::Kind;

void ExpectMeaning(std::string_view gguf, Kind kind, std::string_view model) {
  SCOPED_TRACE(gguf);
  const auto meaning = MeaningOfGguf(gguf);
  ASSERT_TRUE(meaning.has_value());
  EXPECT_EQ(meaning->kind, kind);
  EXPECT_EQ(meaning->name, model);
}

TEST(GgufNamesTest, ReadsTheNamesOfTheModel) {
  ExpectMeaning("token_embd.weight", Kind::kWhole, "model.embed_tokens.weight");
  ExpectMeaning("output.weight", Kind::kWhole, "lm_head.weight");
  ExpectMeaning("blk.0.attn_norm.weight", Kind::kWhole, "model.layers.0.input_layernorm.weight");
  ExpectMeaning("blk.12.exp_probs_b.bias", Kind::kWhole,
                "model.layers.12.mlp.gate.e_score_correction_bias");
  ExpectMeaning("blk.60.ffn_up_exps.weight", Kind::kExperts,
                "model.layers.60.mlp.experts.0.up_proj.weight");
  ExpectMeaning("blk.3.attn_k_b.weight", Kind::kKeys, "model.layers.3.self_attn.kv_b_proj.weight");
  ExpectMeaning("blk.3.attn_v_b.weight", Kind::kValues,
                "model.layers.3.self_attn.kv_b_proj.weight");
  ExpectMeaning("blk.3.attn_kv_b.weight", Kind::kWhole,
                "model.layers.3.self_attn.kv_b_proj.weight");
  ExpectMeaning("blk.61.nextn.shared_head_norm.weight", Kind::kWhole,
                "model.layers.61.shared_head.norm.weight");
  ExpectMeaning("blk.2.indexer.proj.weight", Kind::kWhole,
                "model.layers.2.self_attn.indexer.weights_proj.weight");
}

TEST(GgufNamesTest, KnowsNoOtherNames) {
  for (const std::string_view name :
       {"", "blk", "blk.", "blk.3", "blk.3.", "blk.x.attn_q.weight", "blk.03.attn_q.weight",
        "blk.-1.attn_q.weight", "blk.3.attn_q.bias", "blk.3.token_embd.weight", "attn_q.weight",
        "blk.99999999999999999999.attn_q.weight", "rope_freqs.weight", "model.norm.weight",
        "xblk.3.attn_q.weight"}) {
    EXPECT_FALSE(MeaningOfGguf(name).has_value()) << name;
  }
}

TEST(GgufNamesTest, EveryNameLeadsBackToTheModels) {
  std::set<std::string> seen;
  const auto once = [&](std::string_view name) {
    EXPECT_TRUE(seen.insert(std::string(name)).second) << name;
  };
  for (const GgufNamePair& pair : GgufModelNames()) {
    once(pair.gguf);
    ExpectMeaning(pair.gguf, Kind::kWhole, pair.model);
  }
  const std::string of = ModelLayerPrefix(7);
  const std::string to = GgufLayerPrefix(7);
  for (const GgufNamePair& pair : GgufLayerNames()) {
    once(pair.gguf);
    ExpectMeaning(to + std::string(pair.gguf), Kind::kWhole, of + std::string(pair.model));
  }
  for (const GgufNamePair& pair : GgufExpertNames()) {
    once(pair.gguf);
    ExpectMeaning(to + std::string(pair.gguf), Kind::kExperts,
                  of + ExpertMatrixName(0, pair.model));
  }
}

TEST(GgufNamesTest, AreThoseOfSomeArchitectures) {
  EXPECT_TRUE(HasGgufNames("deepseek2"));
  EXPECT_TRUE(HasGgufNames("deepseek32"));
  EXPECT_TRUE(HasGgufNames("glm-dsa"));
  EXPECT_FALSE(HasGgufNames("deepseek"));
  EXPECT_FALSE(HasGgufNames("llama"));
}

}  // namespace
}  // namespace dsv3::convert
