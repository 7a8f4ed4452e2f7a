#include <cstdint>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/parallel/slicing_model.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using nlohmann::json;
using ::testing::AllOf;
using testing::CheckScales;
using testing::DivisibleConfig;
using ::testing::ElementsAre;
using testing::FindSliced;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MakeModel;
using testing::MakeTopology;
using testing::ModelTensors;
using ::testing::Not;
using testing::PlacementFor;
using testing::ShortV3Config;
using ::testing::SizeIs;
using testing::SliceModel;
using testing::SlicingError;

SlicingOptions With(OnMisaligned mode) {
  SlicingOptions options;
  options.on_misaligned = mode;
  return options;
}

// A model with one scale a row, one a tensor, or one for some columns of a row.
ModelTensors WithScales(const std::string& strategy, std::size_t scale_dims) {
  json config = DivisibleConfig();
  json weights = {{"num_bits", 8}, {"type", "float"}, {"strategy", strategy}};
  if (strategy == "group") weights["group_size"] = 8;
  config["quantization_config"] = {
      {"quant_method", "compressed-tensors"},
      {"format", "float-quantized"},
      {"weight_block_size", {4, 4}},  // not read here
      {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}}};
  json plain = DivisibleConfig();
  ModelTensors model = MakeModel(plain, [&](auto& tensors) {
    formats::Shape weight;
    for (CatalogTensor& tensor : tensors) {
      if (!tensor.name.ends_with("_scale_inv")) {
        weight = tensor.shape;
        continue;
      }
      tensor.name.resize(tensor.name.size() - 4);
      tensor.shape = {weight[0], strategy == "group" ? (weight[1] + 7) / 8 : 1};
      if (strategy == "tensor") tensor.shape = {1, 1};
      if (scale_dims < 2) tensor.shape.resize(scale_dims);
    }
  });
  model.config = ParseModelConfig(config.dump(), "config.json");
  const ScaledWeights scaled = FindScaledWeights(model.catalog, model.config);
  EXPECT_THAT(scaled.findings, IsEmpty());
  model.scaled = scaled.pairs;
  EXPECT_THAT(model.scaled, SizeIs(::testing::Gt(50)));
  return model;
}

TEST(ScaleForms, CutsScalesOfEveryForm) {
  struct Case {
    const char* strategy;
    std::size_t dims;
    std::uint64_t gate_ways;  // of the scale of rows that are cut
    std::uint64_t down_ways;  // of the scale of columns that are cut
  };
  for (const Case& form :
       {Case{"channel", 2, 4, 1}, Case{"channel", 1, 4, 1}, Case{"tensor", 2, 1, 1},
        Case{"tensor", 1, 1, 1}, Case{"tensor", 0, 1, 1}, Case{"group", 2, 4, 4}}) {
    SCOPED_TRACE(fmt::format("{} {}", form.strategy, form.dims));
    const ModelTensors model = WithScales(form.strategy, form.dims);
    const Slicing slicing = SliceModel(model, MakeTopology(model, 4));
    CheckScales(model, slicing);
    const auto ways_of = [&](const char* name) { return FindSliced(slicing, model, name)->ways; };
    EXPECT_EQ(ways_of("model.layers.0.mlp.gate_proj.weight_scale"), form.gate_ways);
    EXPECT_EQ(ways_of("model.layers.0.mlp.down_proj.weight_scale"), form.down_ways);
    EXPECT_EQ(ways_of("model.layers.0.mlp.down_proj.weight"), 4U);
  }
}

TEST(ScaleForms, GivesAScaleThatSpansTheCutToAllItsRanks) {
  const ModelTensors model = WithScales("tensor", 0);
  const Topology topology = MakeTopology(model, 4, 2);
  const Slicing slicing = SliceModel(model, topology);
  const SlicedTensor* scale =
      FindSliced(slicing, model, "model.layers.1.mlp.experts.6.up_proj.weight_scale");
  EXPECT_EQ(BoxOf(*scale, 0), (Box{0, 1, 0, 1}));
  EXPECT_THAT(RanksOf(*scale, 0, topology, PlacementFor(model, topology)), ElementsAre(2, 3));
}

TEST(ScaleForms, PadsTheScalesOfAnFp8HeadWithItsRows) {
  json config = DivisibleConfig();
  for (const bool blocks : {true, false}) {
    if (!blocks) config["quantization_config"].erase("weight_block_size");
    ModelTensors model = MakeModel(DivisibleConfig(), [&](auto& tensors) {
      std::erase_if(tensors, [](const auto& t) { return t.name.ends_with("_scale_inv"); });
      for (CatalogTensor& tensor : tensors) {
        if (tensor.dtype == Dtype::kF8E4M3) tensor.dtype = Dtype::kBF16;
        if (tensor.name == "lm_head.weight") tensor.dtype = Dtype::kF8E4M3;
      }
      const formats::Shape shape = blocks ? formats::Shape{33, 6} : formats::Shape{};
      tensors.push_back({"lm_head.weight_scale_inv", Dtype::kF32, shape, {}});
    });
    model.config = ParseModelConfig(config.dump(), "config.json");
    model.scaled = FindScaledWeights(model.catalog, model.config).pairs;
    ASSERT_THAT(model.scaled, SizeIs(1));
    const Slicing slicing = SliceModel(model, MakeTopology(model, 4));  // 48 rows each
    const SlicedTensor* scale = FindSliced(slicing, model, "lm_head.weight_scale_inv");
    EXPECT_EQ(scale->ways, blocks ? 4U : 1U);
    EXPECT_EQ(BoxOf(*scale, scale->ways - 1), blocks ? (Box{36, 48, 0, 6}) : (Box{0, 1, 0, 1}));
  }
}

TEST(ScaleForms, CutsNoScaleInSubblocksThatIsNoPlainBlock) {
  const ModelTensors model = WithScales("group", 2);
  Topology narrow = MakeTopology(model, 4);
  EXPECT_EQ(SlicingError(model, narrow).message(), "no error");
  narrow.dense_tp = 8;
  const Error refused = SlicingError(model, narrow);
  EXPECT_EQ(refused.code(), ErrorCode::kUsage);
  EXPECT_THAT(refused.message(), AllOf(HasSubstr("down_proj.weight"), HasSubstr("column 12"),
                                       HasSubstr("replicate-module"), Not(HasSubstr("subblock"))));
  const Error subblock = SlicingError(model, narrow, With(OnMisaligned::kSubblock));
  EXPECT_EQ(subblock.code(), ErrorCode::kUsage);
  EXPECT_THAT(subblock.message(),
              AllOf(HasSubstr("--on-misaligned subblock"), HasSubstr("replicate-module or bf16")));
}

TEST(ScaleForms, CutsNoFusedExpertsInSubblocks) {
  const std::string fused = "model.layers.1.mlp.experts.gate_up_proj";
  json config = DivisibleConfig();
  config["intermediate_size"] = 88;  // 22 rows in blocks of 4
  const ModelTensors model = MakeModel(config, [&](auto& tensors) {
    std::erase_if(tensors, [](const auto& t) {
      return t.name.find("layers.1.mlp.experts.") != std::string::npos;
    });
    tensors.push_back({fused, Dtype::kF8E4M3, {8, 254, 24}, {}});
    tensors.push_back({fused + "_scale_inv", Dtype::kF32, {8, 64, 6}, {}});
  });
  Topology topology = MakeTopology(model, 1);
  topology.dense_tp = 4;
  EXPECT_THAT(SlicingError(model, topology).message(), Not(HasSubstr("subblock")));
  EXPECT_THAT(SlicingError(model, topology, With(OnMisaligned::kSubblock)).message(),
              HasSubstr(fused));
  const Slicing slicing = SliceModel(model, topology, With(OnMisaligned::kReplicateModule));
  EXPECT_EQ(FindSliced(slicing, model, fused + "_scale_inv")->padded, (MatrixShape{512, 6}));
}

TEST(ScaleForms, IsRefusedInDeepseeksFormatWhereItsScriptCutsWrong) {
  SlicingOptions options;
  options.deepseek = true;
  const ModelTensors model = MakeModel(ShortV3Config());
  EXPECT_EQ(SlicingError(model, MakeTopology(model, 16, 16), options).message(), "no error");
  Topology wide = MakeTopology(model, 16, 16);
  wide.tp = wide.dense_tp = wide.shared_expert_tp = wide.embed_tp = 32;
  const Error error = SlicingError(model, wide, options);
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("row 576"), HasSubstr("use --tp 16, or --format"),
                                     Not(HasSubstr("--on-misaligned"))));
  // One scale for all rows goes to no rank alone.
  json config = DivisibleConfig();
  config["quantization_config"]["weight_block_size"] = {128, 4};
  const ModelTensors spanned = MakeModel(config);
  EXPECT_EQ(SlicingError(spanned, MakeTopology(spanned, 2, 2)).message(), "no error");
  EXPECT_THAT(SlicingError(spanned, MakeTopology(spanned, 2, 2), options).message(),
              AllOf(HasSubstr("row 48"), HasSubstr("use --tp 1, or --format hf-rank")));
}

}  // namespace
}  // namespace dsv3::convert
