#include "convert/layouts/gguf_names.h"

#include <set>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

using Kind = GgufMeaning::Kind;

void ExpectMeaning(std::string_view gguf, Kind kind, std::string_view model,
                   const GgufNames& names = V3GgufNames()) {
  SCOPED_TRACE(gguf);
  const auto meaning = MeaningOfGguf(names, gguf);
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
    EXPECT_FALSE(MeaningOfGguf(V3GgufNames(), name).has_value()) << name;
  }
}

TEST(GgufNamesTest, ReadsTheNamesOfV4) {
  const GgufNames& names = V4GgufNames();
  ExpectMeaning("token_embd.weight", Kind::kWhole, "embed.weight", names);
  ExpectMeaning("output_hc_fn.weight", Kind::kWhole, "hc_head_fn", names);
  ExpectMeaning("blk.5.attn_compressor_ape.weight", Kind::kWhole, "layers.5.attn.compressor.ape",
                names);
  ExpectMeaning("blk.0.ffn_down_exps.weight", Kind::kExperts, "layers.0.ffn.experts.0.w2.weight",
                names);
  EXPECT_FALSE(MeaningOfGguf(names, "blk.0.attn_k_b.weight").has_value());
  EXPECT_FALSE(MeaningOfGguf(names, "blk.0.attn_kv_b.weight").has_value());
}

TEST(GgufNamesTest, EveryNameLeadsBackToTheModels) {
  for (const GgufNames* const names : {&V3GgufNames(), &V4GgufNames()}) {
    std::set<std::string> seen;
    const auto once = [&](std::string_view name) {
      EXPECT_TRUE(seen.insert(std::string(name)).second) << name;
    };
    for (const GgufNamePair& pair : names->outside) {
      once(pair.gguf);
      ExpectMeaning(pair.gguf, Kind::kWhole, pair.model, *names);
    }
    const std::string of = names->LayerPrefix(7);
    const std::string to = GgufLayerPrefix(7);
    for (const GgufNamePair& pair : names->layer) {
      once(pair.gguf);
      ExpectMeaning(to + std::string(pair.gguf), Kind::kWhole, of + std::string(pair.model),
                    *names);
    }
    for (const GgufNamePair& pair : names->expert) {
      once(pair.gguf);
      ExpectMeaning(to + std::string(pair.gguf), Kind::kExperts,
                    names->ExpertName(7, 0, pair.model), *names);
    }
  }
}

TEST(GgufNamesTest, AreThoseOfSomeArchitectures) {
  for (const char* const architecture : {"deepseek2", "deepseek32", "glm-dsa"}) {
    EXPECT_EQ(FindGgufNames(architecture), &V3GgufNames()) << architecture;
  }
  EXPECT_EQ(FindGgufNames("deepseek4"), &V4GgufNames());
  EXPECT_EQ(FindGgufNames("deepseek"), nullptr);
  EXPECT_EQ(FindGgufNames("llama"), nullptr);
}

}  // namespace
}  // namespace dsv3::convert
