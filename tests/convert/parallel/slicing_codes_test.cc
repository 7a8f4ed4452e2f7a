#include "convert/parallel/slicing_codes.h"

#include <cstdint>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/parallel/slicing_model.h"

// Packed codes between ranks.
namespace dsv3::convert {
namespace {

using formats::Dtype;
using nlohmann::json;
using ::testing::AllOf;
using testing::DivisibleConfig;
using testing::FindSliced;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MakeModel;
using testing::MakeTopology;
using testing::ModelTensors;
using ::testing::Not;
using ::testing::SizeIs;
using testing::SliceModel;
using testing::SlicingError;
using testing::WithoutFp8;

constexpr std::uint64_t kHidden = 64;
const std::string kExpert = "model.layers.1.mlp.experts.6.";

struct Packing {
  std::uint64_t width = 128;  // of an expert
  std::string strategy = "group";
  bool symmetric = true;
};

// Experts in packed INT4 with groups of 32 columns, or a scale for each row.
ModelTensors WithPackedExperts(const Packing& packing) {
  json config = WithoutFp8(DivisibleConfig());
  config["hidden_size"] = kHidden;
  config["moe_intermediate_size"] = packing.width;
  const bool grouped = packing.strategy == "group";
  json weights = {{"num_bits", 4},
                  {"type", "int"},
                  {"strategy", packing.strategy},
                  {"symmetric", packing.symmetric}};
  if (grouped) weights["group_size"] = 32;
  ModelTensors model = MakeModel(config, [&](std::vector<CatalogTensor>& tensors) {
    std::vector<CatalogTensor> packed;
    for (CatalogTensor& tensor : tensors) {
      if (tensor.name.find(".experts.") == std::string::npos) {
        packed.push_back(tensor);
        continue;
      }
      const std::uint64_t rows = tensor.shape[0];
      const std::uint64_t cols = tensor.shape[1];
      const std::uint64_t groups = grouped ? cols / 32 : 1;
      packed.push_back({tensor.name + "_packed", Dtype::kI32, {rows, cols / 8}, {}});
      packed.push_back({tensor.name + "_scale", Dtype::kBF16, {rows, groups}, {}});
      packed.push_back({tensor.name + "_shape", Dtype::kI32, {2}, {}});
      if (packing.symmetric) continue;
      packed.push_back({tensor.name + "_zero_point", Dtype::kI32, {rows / 8, groups}, {}});
    }
    tensors = std::move(packed);
  });
  config["quantization_config"] = {{"quant_method", "compressed-tensors"},
                                   {"format", "pack-quantized"},
                                   {"config_groups", {{"group_0", {{"weights", weights}}}}}};
  model.config = ParseModelConfig(config.dump(), "config.json");
  const ScaledWeights scaled = FindScaledWeights(model.catalog, model.config);
  EXPECT_THAT(scaled.findings, IsEmpty());
  model.scaled = SliceableWeights(model.catalog, model.config, scaled);
  EXPECT_THAT(model.scaled, SizeIs(scaled.formed.size()));
  return model;
}

Box BoxOfPart(const ModelTensors& model, const Slicing& slicing, const std::string& part,
              std::uint64_t number) {
  const SlicedTensor* const tensor = FindSliced(slicing, model, kExpert + part);
  return BoxOf(*tensor, tensor->ways == 1 ? 0 : number);
}

SlicingOptions With(OnMisaligned mode) {
  SlicingOptions options;
  options.on_misaligned = mode;
  return options;
}

TEST(PackedCodes, AreCutWithTheirGroupsScalesAndZeroPoints) {
  const ModelTensors model = WithPackedExperts({.symmetric = false});
  const Slicing slicing = SliceModel(model, MakeTopology(model, 2));
  // Rows of gate and up.
  EXPECT_EQ(BoxOfPart(model, slicing, "gate_proj.weight_packed", 1), (Box{64, 128, 0, 8}));
  EXPECT_EQ(BoxOfPart(model, slicing, "gate_proj.weight_scale", 1), (Box{64, 128, 0, 2}));
  EXPECT_EQ(BoxOfPart(model, slicing, "gate_proj.weight_zero_point", 1), (Box{8, 16, 0, 2}));
  // Columns of down, in words.
  EXPECT_EQ(BoxOfPart(model, slicing, "down_proj.weight_packed", 1), (Box{0, 64, 8, 16}));
  EXPECT_EQ(BoxOfPart(model, slicing, "down_proj.weight_scale", 1), (Box{0, 64, 2, 4}));
  EXPECT_EQ(BoxOfPart(model, slicing, "down_proj.weight_zero_point", 1), (Box{0, 8, 2, 4}));
  // What the whole weight is, at every rank.
  EXPECT_EQ(BoxOfPart(model, slicing, "down_proj.weight_shape", 1), (Box{0, 2, 0, 1}));
}

TEST(PackedCodes, CountAsTheirValues) {
  const ModelTensors model = WithPackedExperts({});
  const Slicing slicing = SliceModel(model, MakeTopology(model, 2));
  EXPECT_EQ(FindSliced(slicing, model, kExpert + "up_proj.weight_packed")->values, 8U);
  EXPECT_EQ(FindSliced(slicing, model, kExpert + "up_proj.weight_shape")->values, 0U);
  EXPECT_EQ(FindSliced(slicing, model, "lm_head.weight")->values, 1U);
}

TEST(PackedCodes, AreNotCutInsideAGroup) {
  const ModelTensors model = WithPackedExperts({});
  EXPECT_EQ(SlicingError(model, MakeTopology(model, 4)).message(), "no error");
  const Topology topology = MakeTopology(model, 8);
  for (const OnMisaligned mode :
       {OnMisaligned::kError, OnMisaligned::kSubblock, OnMisaligned::kBF16}) {
    const Error error = SlicingError(model, topology, With(mode));
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.message(),
                AllOf(HasSubstr("experts.0.down_proj.weight_packed"), HasSubstr("128 columns"),
                      HasSubstr("column 16"), HasSubstr("32 columns that share a scale"),
                      HasSubstr("use --ep 2, or --on-misaligned replicate-module"),
                      Not(HasSubstr("bf16"))));
  }
  const Slicing whole = SliceModel(model, topology, With(OnMisaligned::kReplicateModule));
  EXPECT_EQ(FindSliced(whole, model, kExpert + "down_proj.weight_packed")->ways, 1U);
  EXPECT_EQ(FindSliced(whole, model, kExpert + "down_proj.weight_scale")->ways, 1U);
  EXPECT_EQ(FindSliced(whole, model, kExpert + "gate_proj.weight_packed")->ways, 1U);
}

TEST(PackedCodes, AreNotCutInsideAWord) {
  const ModelTensors model = WithPackedExperts({.width = 32, .strategy = "channel"});
  const Slicing slicing = SliceModel(model, MakeTopology(model, 4));
  EXPECT_EQ(BoxOfPart(model, slicing, "down_proj.weight_packed", 3), (Box{0, 64, 3, 4}));
  EXPECT_EQ(BoxOfPart(model, slicing, "down_proj.weight_scale", 3), (Box{0, 64, 0, 1}));
  EXPECT_THAT(SlicingError(model, MakeTopology(model, 8)).message(),
              AllOf(HasSubstr("down_proj.weight_packed"), HasSubstr("column 4"),
                    HasSubstr("8 columns that share an element of the packed codes")));
}

TEST(PackedCodes, AreNotCutInsideAWordOfZeroPoints) {
  const ModelTensors model =
      WithPackedExperts({.width = 32, .strategy = "channel", .symmetric = false});
  EXPECT_THAT(SlicingError(model, MakeTopology(model, 8)).message(),
              AllOf(HasSubstr("gate_proj.weight_packed"), HasSubstr("row 4"),
                    HasSubstr("8 rows that share a word of zero points")));
}

}  // namespace
}  // namespace dsv3::convert
