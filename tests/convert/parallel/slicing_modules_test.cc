#include <cstdint>
#include <optional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/parallel/slicing_model.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using nlohmann::json;
using ::testing::AllOf;
using testing::DivisibleConfig;
using ::testing::ElementsAre;
using testing::FindSliced;
using ::testing::HasSubstr;
using testing::MakeModel;
using testing::MakeTopology;
using testing::ModelTensors;
using testing::PlacementFor;
using testing::ShortV3Config;
using testing::SliceModel;
using testing::SlicingError;
using testing::WithoutFp8;

bool Has(const std::string& name, const char* part) { return name.find(part) != std::string::npos; }

TEST(SlicedModules, TakesV3sVocabularyAsItIs) {
  const ModelTensors model = MakeModel(ShortV3Config());
  const Slicing slicing = SliceModel(model, MakeTopology(model, 4));
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.layers.5.embed_tokens.weight",
        "model.layers.5.shared_head.head.weight"}) {
    const SlicedTensor* sliced = FindSliced(slicing, model, name);
    ASSERT_NE(sliced, nullptr) << name;
    EXPECT_EQ(BoxOf(*sliced, 3), (Box{96960, 129280, 0, 7168})) << name;
  }
}

TEST(SlicedModules, PadsTheVocabularyTo64) {
  json config = DivisibleConfig();
  config["vocab_size"] = 129;
  const ModelTensors model = MakeModel(config);
  const Slicing slicing = SliceModel(model, MakeTopology(model, 4));
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.layers.5.shared_head.head.weight"}) {
    const SlicedTensor* sliced = FindSliced(slicing, model, name);
    ASSERT_NE(sliced, nullptr) << name;
    EXPECT_EQ(BoxOf(*sliced, 2), (Box{96, 144, 0, 24})) << "15 of these rows are padding";
    EXPECT_EQ(BoxOf(*sliced, 3), (Box{144, 192, 0, 24})) << "all of these rows are padding";
  }
  const Slicing whole = SliceModel(model, MakeTopology(model, 1));
  EXPECT_EQ(BoxOf(*FindSliced(whole, model, "lm_head.weight"), 0), (Box{0, 192, 0, 24}));
}

TEST(SlicedModules, DoesNotPadTheVocabularyForDeepseeksFormat) {
  const ModelTensors model = MakeModel(DivisibleConfig());
  SlicingOptions options;
  options.deepseek = true;
  const Slicing slicing = SliceModel(model, MakeTopology(model, 2), options);
  EXPECT_EQ(BoxOf(*FindSliced(slicing, model, "lm_head.weight"), 1), (Box{65, 130, 0, 24}));
  const Error error = SlicingError(model, MakeTopology(model, 8), options);
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("embed_tokens.weight"), HasSubstr("130 rows"),
                                     HasSubstr("use --tp 2, or --format hf-rank")));
}

TEST(SlicedModules, KeepsATiedEmbeddingInTheFirstAndLastStage) {
  json config = DivisibleConfig();
  config["tie_word_embeddings"] = true;
  const ModelTensors model = MakeModel(config);
  ParallelOptions parallel;
  parallel.tp = 2;
  parallel.pp = 3;
  const Topology topology = PlanTopology(parallel, model.config);
  const Slicing slicing = SliceModel(model, topology);
  const SlicedTensor* embedding = FindSliced(slicing, model, "model.embed_tokens.weight");
  EXPECT_THAT(RanksOf(*embedding, 1, topology, std::nullopt), ElementsAre(1, 5));
  EXPECT_THAT(RanksOf(*embedding, 1, MakeTopology(model, 2), std::nullopt), ElementsAre(1));
}

TEST(SlicedModules, GivesWhatNoRuleKnowsToEveryRank) {
  const ModelTensors model = MakeModel(DivisibleConfig(), [](auto& tensors) {
    tensors.push_back({"model.layers.2.self_attn.rotary_emb.inv_freq", Dtype::kF32, {7}, {}});
    tensors.push_back({"model.layers.2.self_attn.q_b_proj.input_scale", Dtype::kF32, {}, {}});
    tensors.push_back({"model.layers.2.self_attn.rotary_emb.cos_cached", Dtype::kF32, {9, 7}, {}});
    tensors.push_back({"model.layers.2.mlp.shared_expert_gate.weight", Dtype::kBF16, {1, 24}, {}});
    tensors.push_back({"adapter.weight", Dtype::kBF16, {3, 5}, {}});
  });
  ParallelOptions parallel;
  parallel.tp = 2;
  parallel.pp = 2;
  const Topology topology = PlanTopology(parallel, model.config);
  const Slicing slicing = SliceModel(model, topology);
  const auto ranks_of = [&](const char* name) {
    const SlicedTensor* sliced = FindSliced(slicing, model, name);
    EXPECT_EQ(sliced->ways, 1U) << name;
    return RanksOf(*sliced, 0, topology, std::nullopt);
  };
  EXPECT_THAT(ranks_of("model.layers.2.self_attn.rotary_emb.inv_freq"), ElementsAre(2, 3));
  EXPECT_THAT(ranks_of("model.layers.2.self_attn.q_b_proj.input_scale"), ElementsAre(2, 3));
  EXPECT_THAT(ranks_of("model.layers.2.self_attn.rotary_emb.cos_cached"), ElementsAre(2, 3));
  EXPECT_THAT(ranks_of("model.layers.2.mlp.shared_expert_gate.weight"), ElementsAre(2, 3));
  EXPECT_THAT(ranks_of("adapter.weight"), ElementsAre(0, 1, 2, 3));
}

TEST(SlicedModules, RefusesAnUnknownMatrixBesideOnesThatAreCut) {
  const struct {
    const char* name;
    Dtype dtype;
    formats::Shape shape;
  } matrices[] = {
      {"model.layers.2.self_attn.k_proj.weight", Dtype::kBF16, {32, 24}},
      {"model.layers.2.self_attn.v_proj.weight", Dtype::kF8E4M3, {32, 24}},
      {"model.layers.2.self_attn.k_proj.weight_packed", Dtype::kI32, {32, 3}},
      {"model.layers.2.self_attn.k_proj.qweight", Dtype::kI32, {3, 32}},
      {"model.layers.2.cross_attn.k_proj.weight", Dtype::kBF16, {32, 24}},
      {"model.layers.2.mlp.gate_up_proj.weight", Dtype::kBF16, {32, 24}},
      {"model.layers.2.mlp.gate_proj.lora_A.weight", Dtype::kBF16, {4, 24}},
      {"model.layers.2.linear_attn.conv1d.weight", Dtype::kBF16, {32, 1, 4}},
  };
  for (const auto& matrix : matrices) {
    const ModelTensors model = MakeModel(DivisibleConfig(), [&](auto& tensors) {
      tensors.push_back({matrix.name, matrix.dtype, matrix.shape, {}});
    });
    const Error error = SlicingError(model, MakeTopology(model, 2));
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << matrix.name;
    EXPECT_THAT(error.message(), AllOf(HasSubstr(matrix.name), HasSubstr("config.json")));
    EXPECT_EQ(error.place().tensor, matrix.name);
    // Experts alone are given out; all ranks hold the rest whole.
    ParallelOptions experts;
    experts.tp = 1;
    experts.ep = 2;
    const Topology topology = PlanTopology(experts, model.config);
    EXPECT_EQ(FindSliced(SliceModel(model, topology), model, matrix.name)->ways, 1U);
  }
}

TEST(SlicedModules, CutsBiasesWithTheRowsButNotWithTheColumns) {
  json config = DivisibleConfig();
  config["attention_bias"] = true;
  const ModelTensors model = MakeModel(config, [](auto& tensors) {
    tensors.push_back({"model.layers.0.self_attn.q_b_proj.bias", Dtype::kBF16, {96}, {}});
    tensors.push_back({"lm_head.bias", Dtype::kBF16, {130}, {}});
  });
  const Slicing slicing = SliceModel(model, MakeTopology(model, 4));
  const auto box_of = [&](const char* name, std::uint64_t part) {
    return BoxOf(*FindSliced(slicing, model, name), part);
  };
  EXPECT_EQ(box_of("model.layers.0.self_attn.q_b_proj.bias", 3), (Box{72, 96, 0, 1}));
  EXPECT_EQ(box_of("lm_head.bias", 3), (Box{144, 192, 0, 1}));
  for (const char* whole :
       {"model.layers.0.self_attn.o_proj.bias", "model.layers.0.self_attn.q_a_proj.bias",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.bias"}) {
    EXPECT_EQ(FindSliced(slicing, model, whole)->ways, 1U) << whole;
  }
}

TEST(SlicedModules, DropsTheMtpLayers) {
  json config = DivisibleConfig();
  config["num_nextn_predict_layers"] = 2;
  const ModelTensors model = MakeModel(config);
  SlicingOptions options;
  options.keep_mtp = false;
  const Slicing slicing = SliceModel(model, MakeTopology(model, 2), options);
  EXPECT_EQ(slicing.tensors.size() + slicing.dropped.size(), model.catalog.tensors().size());
  for (const SlicedTensor& sliced : slicing.tensors) {
    const std::string& name = model.catalog.tensors()[sliced.tensor].name;
    EXPECT_FALSE(Has(name, "layers.5.") || Has(name, "layers.6.")) << name;
  }
  EXPECT_THAT(slicing.dropped, ::testing::Each(::testing::ContainsRegex("layers\\.[56]\\.")));
}

TEST(SlicedModules, FindsNamesBehindAPrefix) {
  const ModelTensors model = MakeModel(DivisibleConfig(), {}, "language_model.");
  const Slicing slicing = SliceModel(model, MakeTopology(model, 2));
  const SlicedTensor* q =
      FindSliced(slicing, model, "language_model.model.layers.1.self_attn.q_b_proj.weight");
  ASSERT_NE(q, nullptr);
  EXPECT_EQ(q->ways, 2U);
}

TEST(SlicedModules, RefusesFusedExpertsThatRanksWouldShare) {
  const std::string fused = "model.layers.1.mlp.experts.gate_up_proj";
  const ModelTensors model = MakeModel(WithoutFp8(DivisibleConfig()), [&](auto& tensors) {
    std::erase_if(tensors, [](const auto& t) { return Has(t.name, "layers.1.mlp.experts."); });
    tensors.push_back({fused, Dtype::kBF16, {8, 256, 24}, {}});
  });
  EXPECT_EQ(FindSliced(SliceModel(model, MakeTopology(model, 1)), model, fused)->ways, 1U);
  for (const auto& topology : {MakeTopology(model, 2), MakeTopology(model, 2, 2)}) {
    const Error error = SlicingError(model, topology);
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(), AllOf(HasSubstr(fused), HasSubstr("all experts of a layer"),
                                       HasSubstr("dsv3-convert layout IN OUT --to hf")));
  }
}

TEST(SlicedModules, GivesPackedExpertsWholeToTheirRanksAndCutsThemNoFurther) {
  const std::string expert = "model.layers.1.mlp.experts.5.gate_proj.";
  const ModelTensors model = MakeModel(WithoutFp8(DivisibleConfig()), [&](auto& tensors) {
    std::erase_if(tensors, [](const auto& t) { return Has(t.name, "layers.1.mlp.experts."); });
    tensors.push_back({expert + "weight_packed", Dtype::kI32, {128, 3}, {}});
    tensors.push_back({expert + "weight_scale", Dtype::kBF16, {128, 1}, {}});
    tensors.push_back({expert + "weight_shape", Dtype::kI32, {2}, {}});
  });
  const Topology whole = MakeTopology(model, 4, 4);
  const Slicing slicing = SliceModel(model, whole);
  for (const char* parameter : {"weight_packed", "weight_scale", "weight_shape"}) {
    const SlicedTensor* sliced = FindSliced(slicing, model, expert + parameter);
    ASSERT_NE(sliced, nullptr);
    EXPECT_EQ(sliced->ways, 1U);
    EXPECT_THAT(RanksOf(*sliced, 0, whole, PlacementFor(model, whole)), ElementsAre(2));
  }
  const Error error = SlicingError(model, MakeTopology(model, 4, 2));
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), AllOf(HasSubstr(expert + "weight_packed"), HasSubstr("--ep 4")));
}

TEST(SlicedModules, RefusesAnUnknownTensorOfAnExpertForWhatItIs) {
  const std::string name = "model.layers.1.mlp.experts.5.gate_up.weight";
  const ModelTensors model = MakeModel(WithoutFp8(DivisibleConfig()), [&](auto& tensors) {
    tensors.push_back({name, Dtype::kBF16, {128, 24}, {}});
  });
  const Error error = SlicingError(model, MakeTopology(model, 2));
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(),
              AllOf(HasSubstr(name), HasSubstr("no rule says which part of this tensor"),
                    HasSubstr("--ep 2"), ::testing::Not(HasSubstr("format"))));
}

TEST(SlicedModules, RefusesWhatRanksDoNotDivide) {
  const ModelTensors model = MakeModel(WithoutFp8(DivisibleConfig()), [](auto& tensors) {
    for (CatalogTensor& tensor : tensors) {
      if (Has(tensor.name, "layers.0.mlp.down_proj")) tensor.shape = {24, 98};
    }
  });
  EXPECT_EQ(SlicingError(model, MakeTopology(model, 2)).message(), "no error");
  const Error error = SlicingError(model, MakeTopology(model, 4));
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("layers.0.mlp.down_proj.weight"),
                                     HasSubstr("4 ranks"), HasSubstr("98 columns")));
}

TEST(SlicedModules, RefusesToCutNothing) {
  const ModelTensors model = MakeModel(WithoutFp8(DivisibleConfig()), [](auto& tensors) {
    for (CatalogTensor& tensor : tensors) {
      if (Has(tensor.name, "layers.0.mlp.up_proj")) tensor.shape = {0, 24};
    }
  });
  EXPECT_EQ(SlicingError(model, MakeTopology(model, 1)).message(), "no error");
  EXPECT_THAT(SlicingError(model, MakeTopology(model, 2)).message(), HasSubstr("its 0 rows"));
}

TEST(SlicedModules, RefusesHeadsThatTheConfigHasNot) {
  const ModelTensors model = MakeModel(WithoutFp8(DivisibleConfig()), [](auto& tensors) {
    for (CatalogTensor& tensor : tensors) {
      if (Has(tensor.name, "layers.0.self_attn.kv_b_proj")) tensor.shape = {132, 20};
    }
  });
  const Error error = SlicingError(model, MakeTopology(model, 4));
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("kv_b_proj.weight"), HasSubstr("132 rows"),
                                     HasSubstr("8 attention heads")));
}

TEST(SlicedModules, RefusesExpertsThatTheConfigHasNot) {
  const std::string name = "model.layers.1.mlp.experts.8.up_proj.weight";
  const ModelTensors model = MakeModel(WithoutFp8(DivisibleConfig()), [&](auto& tensors) {
    tensors.push_back({name, Dtype::kBF16, {128, 24}, {}});
  });
  const Error error = SlicingError(model, MakeTopology(model, 2, 2));
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), AllOf(HasSubstr(name), HasSubstr("8 routed experts")));
}

TEST(SlicedModules, RefusesWeightsThatAreNoMatrices) {
  const ModelTensors model = MakeModel(WithoutFp8(DivisibleConfig()), [](auto& tensors) {
    for (CatalogTensor& tensor : tensors) {
      if (tensor.name == "lm_head.weight") tensor.shape = {2, 65, 24};
    }
  });
  const Error error = SlicingError(model, MakeTopology(model, 2));
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("lm_head.weight"), HasSubstr("[2, 65, 24]")));
}

}  // namespace
}  // namespace dsv3::convert
