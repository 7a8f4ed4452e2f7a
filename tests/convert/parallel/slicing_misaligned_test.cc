#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/parallel/slicing_model.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using nlohmann::json;
using ::testing::AllOf;
using testing::CheckScales;
using ::testing::Contains;
using testing::DivisibleConfig;
using ::testing::ElementsAre;
using testing::FindSliced;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MakeModel;
using testing::MakeTopology;
using testing::ModelTensors;
using testing::PlacementFor;
using testing::ShortV3Config;
using ::testing::SizeIs;
using testing::SliceModel;
using testing::SlicingError;
using testing::WithoutFp8;

SlicingOptions With(OnMisaligned mode) {
  SlicingOptions options;
  options.on_misaligned = mode;
  return options;
}

TEST(Misaligned, IsRefusedWithTheWaysOut) {
  const ModelTensors model = MakeModel(ShortV3Config());
  ParallelOptions parallel;
  parallel.tp = 32;
  parallel.ep = 16;
  parallel.shared_expert_tp = 1;
  const Error error = SlicingError(model, PlanTopology(parallel, model.config));
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_EQ(error.message(),
            "model.safetensors: tensor 'model.layers.0.mlp.gate_proj.weight': 32 ranks divide its "
            "18432 rows, and the first boundary, row 576, falls inside a block of 128 rows that "
            "share a scale (as in 2 more modules); use --dense-tp 16, or --on-misaligned "
            "replicate-module (each of these ranks holds the module whole), subblock "
            "(weight_block_size [64, 64] for all weights) or bf16 (the module becomes BF16)");
  EXPECT_EQ(error.place().tensor, "model.layers.0.mlp.gate_proj.weight");
  EXPECT_EQ(error.place().file, "model.safetensors");
}

TEST(Misaligned, NamesTheOptionOfTheModule) {
  const ModelTensors model = MakeModel(ShortV3Config());
  Topology topology = MakeTopology(model, 1);
  topology.tp = 128;
  EXPECT_THAT(SlicingError(model, topology).message(),
              AllOf(HasSubstr("q_b_proj.weight': 128 ranks divide its 24576 rows"),
                    HasSubstr("row 192"), HasSubstr("use --tp 64, or")));
  topology = MakeTopology(model, 1);
  topology.shared_expert_tp = 32;
  EXPECT_THAT(SlicingError(model, topology).message(),
              AllOf(HasSubstr("shared_experts.gate_proj.weight"), HasSubstr("row 64"),
                    HasSubstr("use --shared-expert-tp 16, or")));
  ParallelOptions parallel;
  parallel.tp = 1;
  parallel.dp = 64;
  topology = PlanTopology(parallel, model.config);
  EXPECT_THAT(SlicingError(model, topology).message(),
              AllOf(HasSubstr("experts.0.gate_proj.weight': 64 ranks"), HasSubstr("row 32"),
                    HasSubstr("use --ep 4, or")));
}

TEST(Misaligned, NamesTheColumn) {
  const ModelTensors model = MakeModel(ShortV3Config(), [](auto& tensors) {
    for (CatalogTensor& tensor : tensors) {
      if (tensor.name == "model.layers.0.mlp.down_proj.weight") tensor.shape[1] = 18432 + 64;
      if (tensor.name == "model.layers.0.mlp.down_proj.weight_scale_inv") ++tensor.shape[1];
    }
  });
  EXPECT_THAT(SlicingError(model, MakeTopology(model, 2)).message(),
              AllOf(HasSubstr("down_proj.weight': 2 ranks divide its 18496 columns"),
                    HasSubstr("column 9248"), HasSubstr("block of 128 columns"),
                    HasSubstr("use --dense-tp 1, or"), Not(HasSubstr("as in"))));
}

TEST(Misaligned, NamesTheLargestSizeThatFitsTheModule) {
  json config = ShortV3Config();
  config["moe_intermediate_size"] = 1024;  // shared experts fit 8 ranks, dense MLPs 16
  const ModelTensors model = MakeModel(config);
  Topology topology = MakeTopology(model, 1);
  topology.dense_tp = topology.shared_expert_tp = 32;
  EXPECT_THAT(SlicingError(model, topology).message(), HasSubstr("use --dense-tp 16, or"));
  SlicingOptions deepseek;
  deepseek.deepseek = true;
  EXPECT_THAT(SlicingError(model, topology, deepseek).message(), HasSubstr("use --tp 8, or"));

  config["intermediate_size"] = 15 * 128;
  const ModelTensors fifteen = MakeModel(config);
  topology.dense_tp = 12;  // 5 would fit, but 12 ranks are no multiple
  EXPECT_THAT(SlicingError(fifteen, topology).message(), HasSubstr("use --dense-tp 3, or"));
}

TEST(Misaligned, NamesNoEpThatTheExpertsDoNotDivide) {
  json config = ShortV3Config();
  config["n_routed_experts"] = 6;
  const ModelTensors model = MakeModel(config);
  ParallelOptions parallel;
  parallel.tp = 1;
  parallel.dp = 64;
  parallel.ep = 2;
  EXPECT_THAT(SlicingError(model, PlanTopology(parallel, model.config)).message(),
              AllOf(HasSubstr("experts.0.gate_proj.weight': 32 ranks"),
                    HasSubstr("; use --on-misaligned")));
}

TEST(Misaligned, LeavesModulesWholeOneByOne) {
  json config = ShortV3Config();
  config["first_k_dense_replace"] = 2;
  const ModelTensors model = MakeModel(config, [](auto& tensors) {
    tensors.push_back({"model.layers.0.mlp.gate_proj.bias", Dtype::kBF16, {18432}, {}});
  });
  ParallelOptions parallel;
  parallel.tp = 32;
  parallel.ep = 16;  // experts in two
  parallel.shared_expert_tp = 16;
  const Topology topology = PlanTopology(parallel, model.config);
  const Slicing slicing = SliceModel(model, topology, With(OnMisaligned::kReplicateModule));
  EXPECT_THAT(slicing.replicated_modules, ElementsAre("model.layers.0.mlp", "model.layers.1.mlp"));
  EXPECT_THAT(slicing.bf16_modules, IsEmpty());
  EXPECT_EQ(slicing.recut_block, std::nullopt);
  for (const SlicedTensor& sliced : slicing.tensors) {
    const std::string& name = model.catalog.tensors()[sliced.tensor].name;
    if (sliced.place.kind != ModuleKind::kDenseMlp) continue;
    EXPECT_EQ(sliced.ways, 1U) << name;
    EXPECT_THAT(RanksOf(sliced, 0, topology, std::nullopt), SizeIs(32)) << name;
  }
  EXPECT_EQ(FindSliced(slicing, model, "model.layers.0.self_attn.o_proj.weight")->ways, 32U);
  CheckScales(model, slicing);
}

TEST(Misaligned, LeavesTheExpertsOfALayerWhole) {
  const ModelTensors model = MakeModel(ShortV3Config());
  ParallelOptions parallel;
  parallel.tp = 1;
  parallel.dp = 64;
  parallel.ep = 2;
  const Topology topology = PlanTopology(parallel, model.config);
  const Slicing slicing = SliceModel(model, topology, With(OnMisaligned::kReplicateModule));
  EXPECT_THAT(slicing.replicated_modules,
              ElementsAre("model.layers.3.mlp.experts", "model.layers.4.mlp.experts",
                          "model.layers.5.mlp.experts"));
  const SlicedTensor* expert =
      FindSliced(slicing, model, "model.layers.4.mlp.experts.9.up_proj.weight");
  const auto ranks = RanksOf(*expert, 0, topology, PlacementFor(model, topology));
  ASSERT_THAT(ranks, SizeIs(32));
  EXPECT_EQ(ranks.front(), 32U) << "all ranks of the second half, but no other";
}

TEST(Misaligned, TakesTheWholeAttention) {
  const ModelTensors model = MakeModel(ShortV3Config());
  Topology topology = MakeTopology(model, 1);
  topology.tp = 128;
  const std::string layer = "model.layers.2.self_attn.";
  const Slicing whole = SliceModel(model, topology, With(OnMisaligned::kReplicateModule));
  for (const char* module : {"q_b_proj", "kv_b_proj", "o_proj"}) {
    EXPECT_EQ(FindSliced(whole, model, layer + module + ".weight")->ways, 1U);
  }
  const Slicing bf16 = SliceModel(model, topology, With(OnMisaligned::kBF16));
  EXPECT_THAT(bf16.bf16_modules, SizeIs(18));
  EXPECT_THAT(bf16.bf16_modules, AllOf(Contains(layer + "q_b_proj"), Contains(layer + "kv_b_proj"),
                                       Contains(layer + "o_proj")));
  for (const char* latent : {"q_a_proj", "kv_a_proj_with_mqa"}) {
    const SlicedTensor* sliced = FindSliced(bf16, model, layer + latent + ".weight");
    EXPECT_FALSE(sliced->to_bf16) << latent;
    EXPECT_NE(FindSliced(bf16, model, layer + latent + ".weight_scale_inv"), nullptr) << latent;
  }
  EXPECT_EQ(FindSliced(bf16, model, layer + "q_b_proj.weight")->ways, 128U);
  EXPECT_TRUE(FindSliced(bf16, model, layer + "o_proj.weight")->to_bf16);
  EXPECT_EQ(FindSliced(bf16, model, layer + "o_proj.weight_scale_inv"), nullptr);
  CheckScales(model, bf16);
}

TEST(Misaligned, ScalesOfActivationsGoWithTheWeightsThatBecomeBf16) {
  const std::string layer = "model.layers.2.self_attn.";
  const std::string cut = layer + "o_proj.input_scale";
  const std::string kept = layer + "q_a_proj.input_scale";
  const ModelTensors model = MakeModel(ShortV3Config(), [&](auto& tensors) {
    tensors.push_back({cut, Dtype::kF32, {}, {}});
    tensors.push_back({kept, Dtype::kF32, {}, {}});
  });
  Topology topology = MakeTopology(model, 1);
  topology.tp = 128;
  const Slicing bf16 = SliceModel(model, topology, With(OnMisaligned::kBF16));
  EXPECT_EQ(FindSliced(bf16, model, cut), nullptr);
  EXPECT_THAT(bf16.dropped, ElementsAre(cut));
  EXPECT_NE(FindSliced(bf16, model, kept), nullptr);
  const Slicing whole = SliceModel(model, topology, With(OnMisaligned::kReplicateModule));
  EXPECT_NE(FindSliced(whole, model, cut), nullptr);
  EXPECT_THAT(whole.dropped, IsEmpty());
}

TEST(Misaligned, ListsModulesOfBf16InOrder) {
  json config = ShortV3Config();
  config.update({{"num_hidden_layers", 2}, {"first_k_dense_replace", 1}, {"n_routed_experts", 2}});
  config["num_nextn_predict_layers"] = 0;
  const ModelTensors model = MakeModel(config, [](auto& tensors) {
    tensors.push_back({"model.layers.0.mlp.gate_proj.bias", Dtype::kBF16, {18432}, {}});
  });
  Topology topology = MakeTopology(model, 1);
  topology.dense_tp = topology.shared_expert_tp = topology.moe_tp = 32;
  const Slicing slicing = SliceModel(model, topology, With(OnMisaligned::kBF16));
  EXPECT_THAT(
      slicing.bf16_modules,
      ElementsAre("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj",
                  "model.layers.0.mlp.down_proj", "model.layers.1.mlp.shared_experts.gate_proj",
                  "model.layers.1.mlp.shared_experts.up_proj",
                  "model.layers.1.mlp.shared_experts.down_proj",
                  "model.layers.1.mlp.experts.0.gate_proj", "model.layers.1.mlp.experts.0.up_proj",
                  "model.layers.1.mlp.experts.0.down_proj",
                  "model.layers.1.mlp.experts.1.gate_proj", "model.layers.1.mlp.experts.1.up_proj",
                  "model.layers.1.mlp.experts.1.down_proj"));
  EXPECT_THAT(slicing.replicated_modules, IsEmpty());
  EXPECT_FALSE(FindSliced(slicing, model, "model.layers.0.mlp.gate_proj.bias")->to_bf16);
}

TEST(Misaligned, CutsAllScalesToSubblocks) {
  const ModelTensors model = MakeModel(ShortV3Config());
  Topology topology = MakeTopology(model, 1);
  topology.dense_tp = 32;
  const Slicing slicing = SliceModel(model, topology, With(OnMisaligned::kSubblock));
  EXPECT_EQ(slicing.recut_block, (quant::BlockShape{64, 64}));
  EXPECT_THAT(slicing.tensors, SizeIs(model.catalog.tensors().size()));
  const auto scale = [&](const char* name) { return *FindSliced(slicing, model, name); };
  // Those that no boundary cuts, too; 576 rows are nine whole blocks of 64.
  EXPECT_EQ(scale("model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv").padded,
            (MatrixShape{9, 112}));
  EXPECT_EQ(BoxOf(scale("model.layers.0.mlp.up_proj.weight_scale_inv"), 1), (Box{9, 18, 0, 112}));
  EXPECT_EQ(BoxOf(scale("model.layers.0.mlp.down_proj.weight_scale_inv"), 31),
            (Box{0, 112, 279, 288}));
  EXPECT_EQ(scale("model.layers.0.mlp.down_proj.weight_scale_inv").block,
            (quant::BlockShape{128, 128}));
  CheckScales(model, slicing);
}

TEST(Misaligned, TakesEachDimensionsOwnGcd) {
  const ModelTensors model = MakeModel(ShortV3Config());
  Topology topology = MakeTopology(model, 1);
  topology.tp = 128;  // q_b at multiples of 192 rows, kv_b of 256 rows, o of 128 columns
  const Slicing slicing = SliceModel(model, topology, With(OnMisaligned::kSubblock));
  EXPECT_EQ(slicing.recut_block, (quant::BlockShape{64, 128}));
  CheckScales(model, slicing);
}

TEST(Misaligned, LeavesBlocksWhereNothingIsMisaligned) {
  const ModelTensors model = MakeModel(ShortV3Config());
  for (const auto mode :
       {OnMisaligned::kReplicateModule, OnMisaligned::kSubblock, OnMisaligned::kBF16}) {
    const Slicing slicing = SliceModel(model, MakeTopology(model, 16), With(mode));
    EXPECT_EQ(slicing.recut_block, std::nullopt);
    EXPECT_THAT(slicing.bf16_modules, IsEmpty());
    EXPECT_THAT(slicing.replicated_modules, IsEmpty());
  }
}

TEST(Misaligned, NeverConcernsWeightsWithoutScales) {
  const ModelTensors model = MakeModel(WithoutFp8(ShortV3Config()));
  const Slicing slicing = SliceModel(model, MakeTopology(model, 128));
  EXPECT_EQ(FindSliced(slicing, model, "model.layers.0.mlp.down_proj.weight")->ways, 128U);
}

// Any sizes, blocks and options: what is not refused gives each element its own scale.
TEST(Misaligned, GivesEachElementItsScaleWhateverTheSizes) {
  std::mt19937_64 random(11);
  const auto pick = [&](std::initializer_list<std::uint64_t> values) {
    return values.begin()[random() % values.size()];
  };
  std::map<OnMisaligned, int> misaligned;
  for (int i = 0; i < 400 && !HasFatalFailure(); ++i) {
    json config = DivisibleConfig();
    config.update({{"num_hidden_layers", 2},
                   {"n_routed_experts", 4},
                   {"hidden_size", pick({7, 24, 33})},
                   {"intermediate_size", pick({48, 96, 200, 320})},
                   {"moe_intermediate_size", pick({8, 40, 128})},
                   {"qk_nope_head_dim", pick({3, 8, 16})},
                   {"v_head_dim", pick({5, 8, 16})}});
    config["quantization_config"]["weight_block_size"] = {pick({1, 4, 8, 12, 16, 128}),
                                                          pick({1, 4, 6, 16, 32, 128})};
    const ModelTensors model = MakeModel(config);
    Topology topology = MakeTopology(model, pick({1, 2, 4, 8}), pick({1, 2}));
    topology.dense_tp = pick({1, 2, 4, 8});
    topology.shared_expert_tp = pick({1, 2, 4, 8});
    SCOPED_TRACE(config.dump());
    const Error refused = SlicingError(model, topology);
    for (const auto mode : {OnMisaligned::kError, OnMisaligned::kReplicateModule,
                            OnMisaligned::kSubblock, OnMisaligned::kBF16}) {
      if (refused.message() != "no error") {
        ASSERT_EQ(refused.code(), ErrorCode::kUsage);
        if (mode == OnMisaligned::kError) continue;
        ++misaligned[mode];
      }
      const Slicing slicing = SliceModel(model, topology, With(mode));
      CheckScales(model, slicing);
      if (mode != OnMisaligned::kSubblock || !slicing.recut_block) continue;
      const quant::BlockShape block = *model.config.quantization->weight_block_size;
      EXPECT_EQ(block.rows % slicing.recut_block->rows, 0U);
      EXPECT_EQ(block.cols % slicing.recut_block->cols, 0U);
    }
  }
  EXPECT_GT(misaligned[OnMisaligned::kSubblock], 50);
  EXPECT_LT(misaligned[OnMisaligned::kSubblock], 350);
}

}  // namespace
}  // namespace dsv3::convert
