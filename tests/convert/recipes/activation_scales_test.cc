#include "convert/model/activation_scales.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/catalog/name_pattern.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "formats/checkpoint_files.h"
#include "formats/manifest.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// Static FP8: the scale of a weight's activations is dropped where the weight becomes BF16.
namespace dsv3::convert {
namespace {

using formats::Dtype;
using testing::Conversion;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::kTinyShard1;
using testing::kTinyShard2;
using ::testing::Not;

// One scale for a tensor, static activations; an expert by itself and fused experts.
testing::TinyCheckpoint StaticCheckpoint() {
  testing::TinyCheckpoint checkpoint;
  checkpoint.config =
      R"({"model_type": "m", "torch_dtype": "bfloat16", "quantization_config": )"
      R"({"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": null}})";
  const auto add = [&](const std::string& weight, const std::string& base,
                       const formats::Shape& shape, const formats::Shape& scale_shape) {
    checkpoint.Add(kTinyShard1, weight, Dtype::kF8E4M3, shape);
    checkpoint.AddScale(kTinyShard1, weight + "_scale", Dtype::kF32, scale_shape);
    checkpoint.AddScale(kTinyShard2, base + "input_scale", Dtype::kF32, {});
  };
  add("a.q_proj.weight", "a.q_proj.", {3, 8}, {});
  add("a.experts.7.up_proj.weight", "a.experts.7.up_proj.", {4, 5}, {1});
  checkpoint.AddScale(kTinyShard1, "a.experts.7.up_proj.activation_scale", Dtype::kF32, {1});
  checkpoint.AddScale(kTinyShard1, "a.attn.k_scale", Dtype::kF32, {});
  checkpoint.Add(kTinyShard1, "a.norm.weight", Dtype::kBF16, {3});
  checkpoint.AddScale(kTinyShard1, "a.norm.input_scale", Dtype::kF32, {});
  return checkpoint;
}

const std::vector<std::string> kDropped = {"a.experts.7.up_proj.activation_scale",
                                           "a.experts.7.up_proj.input_scale",
                                           "a.q_proj.input_scale"};

class ActivationScalesTest : public ::testing::Test {
 protected:
  std::vector<std::string> NamesOf(const std::string& directory) const {
    std::vector<std::string> names;
    for (const formats::ShardFile& shard : formats::OpenCheckpointFiles(dir_ / directory).shards) {
      for (const auto& tensor : shard.header.tensors) names.push_back(tensor.name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
};

TEST(ActivationScaleNamesTest, AreThoseOfModulesAndOfFusedExperts) {
  EXPECT_THAT(ActivationScaleNames("a.b.weight"),
              ElementsAre("a.b.input_scale", "a.b.activation_scale", "a.b.input_scale_ub"));
  EXPECT_THAT(
      ActivationScaleNames("experts.gate_up_proj"),
      ElementsAre("experts.gate_up_proj_input_scale", "experts.gate_up_proj_activation_scale",
                  "experts.gate_up_proj_input_scale_ub"));
  EXPECT_TRUE(IsCacheScale("a.self_attn.k_scale"));
  EXPECT_TRUE(IsCacheScale("a.self_attn.v_scale"));
  EXPECT_FALSE(IsCacheScale("a.input_scale"));
}

TEST_F(ActivationScalesTest, GoWhereTheWeightBecomesBf16AndAreReported) {
  StaticCheckpoint().Write(dir_ / "in");
  Conversion conversion(dir_ / "in", dir_ / "out");
  conversion.request.run.dry_run = true;
  for (int run = 0; run < 2; ++run) {
    const ConversionReport report = conversion.Run();
    ASSERT_EQ(report.facts.size(), 1U);
    EXPECT_EQ(report.facts[0].member, "dropped");
    EXPECT_THAT(report.facts[0].names, ::testing::UnorderedElementsAreArray(kDropped));
    EXPECT_THAT(report.facts[0].text, HasSubstr("3 scales of activations"));
    EXPECT_THAT(report.facts[0].lines,
                ::testing::Contains("1 × 'a.experts.*.up_proj.input_scale'"));
    conversion.request.run.dry_run = false;
  }
  EXPECT_THAT(NamesOf("out"),
              ElementsAre("a.attn.k_scale", "a.experts.7.up_proj.weight", "a.norm.input_scale",
                          "a.norm.weight", "a.q_proj.weight"));
  EXPECT_THAT(testing::ReadFile(dir_ / "out" / "config.json"), Not(HasSubstr("static")));
  const formats::Manifest manifest =
      formats::ParseManifest(testing::ReadFile(dir_ / "out" / formats::kManifestName), "manifest");
  std::vector<std::pair<std::string, std::uint64_t>> patterns;
  for (const std::string& name : kDropped) patterns.emplace_back(NamePattern(name), 1);
  EXPECT_THAT(manifest.job.dropped, ::testing::UnorderedElementsAreArray(patterns));
}

TEST_F(ActivationScalesTest, NothingIsReportedWhereThereAreNone) {
  testing::SmallFp8Checkpoint().Write(dir_ / "in");
  const ConversionReport report = Conversion(dir_ / "in", dir_ / "out").Run();
  EXPECT_TRUE(report.facts.at(0).names.empty());
  EXPECT_EQ(report.facts.at(0).text, "");
}

TEST_F(ActivationScalesTest, ComeBackFromTheOriginal) {
  StaticCheckpoint().Write(dir_ / "in");
  Conversion(dir_ / "in", dir_ / "bf16").Run();
  Conversion(dir_ / "bf16", dir_ / "back", Bf16ToFp8Conversion({.scales_from = dir_ / "in"})).Run();
  std::map<std::string, std::string> tree = testing::ReadTree(dir_ / "back");
  EXPECT_EQ(tree.erase("checkpoint.manifest.json"), 1U);
  EXPECT_TRUE(tree == testing::ReadTree(dir_ / "in"));
}

}  // namespace
}  // namespace dsv3::convert
