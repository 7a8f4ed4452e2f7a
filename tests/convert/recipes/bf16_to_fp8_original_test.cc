#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/recipes/layout.h"
#include "formats/manifest.h"
#include "tests/convert/support/bf16_to_fp8_test.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"

// bf16-to-fp8 --scales-from.
namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::FindTensor;
using testing::Poke;
using testing::ReadFile;
using testing::ReadTree;
using ::testing::SizeIs;
using testing::TensorBytes;
using Json = nlohmann::json;

constexpr const char* kManifest = "checkpoint.manifest.json";
constexpr const char* kQAProj = "model.layers.0.self_attn.q_a_proj.weight";
constexpr const char* kOProj = "model.layers.0.self_attn.o_proj.weight";

using Bf16ToFp8OriginalTest = testing::Bf16ToFp8Test;

TEST_F(Bf16ToFp8OriginalTest, GivesTheOriginalBackToTheByte) {
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    fs::remove_all(fp8());
    fs::remove_all(bf16());
    fs::remove_all(out());
    MakeSample(seed);
    options().scales_from = fp8();
    Convert();
    std::map<std::string, std::string> tree = ReadTree(out());
    EXPECT_EQ(tree.erase(kManifest), 1U);
    EXPECT_TRUE(tree == ReadTree(fp8())) << "seed " << seed;
    ASSERT_THAT(report_.quality, SizeIs(136));
    for (const TensorQuality& each : report_.quality) {
      EXPECT_EQ(each.quality.kept_blocks, each.quality.blocks) << each.tensor;
      EXPECT_EQ(each.quality.changed_codes, 0U);
    }
  }
}

TEST_F(Bf16ToFp8OriginalTest, TakesRankShardsForTheirModel) {
  MakeSample();
  ReshardOptions pipeline;
  pipeline.parallel.tp = 1;
  pipeline.parallel.pp = 2;
  testing::RunReshard(fp8(), dir_ / "ranks", pipeline);
  options().scales_from = dir_ / "ranks";
  Convert();
  std::map<std::string, std::string> tree = ReadTree(out());
  EXPECT_EQ(tree.erase(kManifest), 1U);
  EXPECT_TRUE(tree == ReadTree(fp8()));
  // The manifest names the files that the bytes come from.
  EXPECT_THAT(ReadFile(out() / kManifest), ::testing::HasSubstr("scales-from"));
}

TEST_F(Bf16ToFp8OriginalTest, RefusesAnOriginalWithoutShardsOfItsOwn) {
  MakeSample();
  testing::Conversion(bf16(), dir_ / "train", LayoutConversion({.to = "mindformers-train"})).Run();
  options().scales_from = dir_ / "train";
  ExpectRefused(ErrorCode::kBadInput, {"--scales-from ", "training checkpoint"});
}

TEST_F(Bf16ToFp8OriginalTest, QuantisesEditedBlocksAlone) {
  MakeSample();
  // Element [0, 200] of q_a_proj, in its second block.
  Poke(bf16(), kQAProj, 2 * 200, std::string("\x40\x40", 2));
  options().scales_from = fp8();
  Convert();
  const std::string before = TensorBytes(fp8(), kQAProj);
  const std::string after = TensorBytes(out(), kQAProj);
  const std::uint64_t cols = FindTensor(fp8(), kQAProj).entry.shape[1];
  ASSERT_EQ(before.size(), after.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    const bool edited = i / cols < 128 && i % cols >= 128 && i % cols < 256;
    if (edited) continue;
    ASSERT_EQ(before[i], after[i]) << "element " << i;
  }
  EXPECT_EQ(after[200], '\x7e') << "3 is the largest value of its block: 448";
  const std::string scale = TensorBytes(out(), std::string(kQAProj) + "_scale_inv");
  float edited_scale = 0;
  std::memcpy(&edited_scale, scale.data() + sizeof(float), sizeof(float));
  EXPECT_EQ(edited_scale, 3.0F / 448.0F);
  std::size_t edited_tensors = 0;
  for (const TensorQuality& each : report_.quality) {
    if (each.quality.kept_blocks == each.quality.blocks) continue;
    ++edited_tensors;
    EXPECT_EQ(each.tensor, kQAProj);
    EXPECT_EQ(each.quality.blocks - each.quality.kept_blocks, 1U);
    EXPECT_GT(each.quality.changed_codes, 0U);
  }
  EXPECT_EQ(edited_tensors, 1U);
  // Shards without an edit are the original's files.
  std::size_t equal = 0;
  const std::map<std::string, std::string> originals = ReadTree(fp8());
  for (const auto& [name, content] : ReadTree(out())) {
    const auto original = originals.find(name);
    equal += original != originals.end() && original->second == content ? 1U : 0U;
  }
  EXPECT_EQ(equal, originals.size() - 1);
}

TEST_F(Bf16ToFp8OriginalTest, RefusesOptionsThatContradictTheOriginal) {
  MakeSample();
  options().scales_from = fp8();
  using quant::BlockForm;
  options().block = QuantizeBlock{BlockForm::kBlock, {32, 32}};
  ExpectRefused(ErrorCode::kUsage, {"--block 32x32 contradicts --scales-from", "128x128"});
  options().block = QuantizeBlock{};  // 128 × 128, as there
  options().scale_fmt = quant::ScaleFmt::kUe8m0;
  ExpectRefused(ErrorCode::kUsage, {"--scale-fmt ue8m0 contradicts", "has f32 scales"});
  options().scale_fmt = quant::ScaleFmt::kF32;
  options().scale_name = ScaleNaming::kScale;
  ExpectRefused(ErrorCode::kUsage, {"--scale-name scale contradicts"});
  options().scale_name = ScaleNaming::kScaleInv;
  options().recipe = quant::QuantizeRecipe::kLlmCompressor;
  ExpectRefused(ErrorCode::kUsage, {"--recipe llm-compressor contradicts", "F32"});
  options().recipe = quant::QuantizeRecipe::kDeepGemm;
  options().include = {"lm_head.weight"};
  ExpectRefused(ErrorCode::kUsage, {"--include 'lm_head.weight' contradicts"});
  options().include = {kOProj};
  options().exclude = {"*o_proj*"};
  ExpectRefused(ErrorCode::kUsage, {"--exclude '*o_proj*' contradicts"});
  options().exclude = {"lm_head.weight"};
  Convert();
  EXPECT_EQ(TensorBytes(out(), kOProj), TensorBytes(fp8(), kOProj));
}

TEST_F(Bf16ToFp8OriginalTest, RefusesAnotherOriginalByItsDigests) {
  MakeSample();
  ProgressSink progress;
  WriteSample({SamplePreset::kTiny, 99}, dir_ / "other", quick_, progress);
  options().scales_from = dir_ / "other";
  ExpectRefused(ErrorCode::kBadInput, {"is not the one that the source was made with", kManifest});
  // Without the manifest names and shapes decide.
  fs::remove(bf16() / kManifest);
  Convert();
  std::uint64_t kept = 0;
  for (const TensorQuality& each : report_.quality) kept += each.quality.kept_blocks;
  EXPECT_EQ(kept, 0U);
}

TEST_F(Bf16ToFp8OriginalTest, RefusesAnOriginalWithOtherTensors) {
  MakeSample();
  options().scales_from = bf16();
  ExpectRefused(ErrorCode::kBadInput, {"--scales-from", "not an FP8 checkpoint"});
  options().scales_from = dir_ / "nowhere";
  ExpectRefused(ErrorCode::kBadInput, {"--scales-from", "nowhere"});
  // One tensor more, or one of another shape.
  const testing::TinyCheckpoint tiny = testing::SmallFp8Checkpoint();
  tiny.Write(dir_ / "tiny");
  options().scales_from = dir_ / "tiny";
  ExpectRefused(ErrorCode::kBadInput, {"--scales-from"});
}

TEST_F(Bf16ToFp8OriginalTest, KeepsAnEditedConfigBesideTheOriginalsQuantization) {
  MakeSample();
  EditConfig("my_field", "17");
  options().scales_from = fp8();
  Convert();
  EXPECT_EQ(Config()["my_field"], 17);
  EXPECT_EQ(Config()["quantization_config"],
            Json::parse(ReadFile(fp8() / "config.json"))["quantization_config"]);
}

TEST_F(Bf16ToFp8OriginalTest, ManifestTellsEverythingThatDecidesBytes) {
  MakeSample();
  options().scales_from = fp8();
  Convert();
  const Json manifest = Json::parse(ReadFile(out() / kManifest));
  EXPECT_EQ(manifest["recipe"], "bf16-to-fp8");
  EXPECT_EQ(manifest["options"], Json({{"recipe", "deepseek"},
                                       {"scale_fmt", "f32"},
                                       {"block", "128x128"},
                                       {"scale_name", "weight_scale_inv"},
                                       {"include", Json::array()},
                                       {"exclude", Json::array()},
                                       {"nonfinite", "error"},
                                       {"scales_from", true},
                                       {"checksum", "sha256"},
                                       {"tensor_sha256", false}}));
  // A scale that was found before its file was written has the weight's digest, too.
  const formats::Manifest parsed = formats::ParseManifest(ReadFile(out() / kManifest), kManifest);
  EXPECT_EQ(parsed.tensors.size(), 309U);
  // The same bytes whatever the threads and memory.
  const auto tree = ReadTree(out());
  fs::remove_all(out());
  request_.run.threads = 3;
  request_.run.memory_bytes = std::uint64_t{8} << 20;
  Convert();
  EXPECT_TRUE(ReadTree(out()) == tree);
}

TEST_F(Bf16ToFp8OriginalTest, WarningsAboutTheOriginalAreShownAndReported) {
  MakeSample();
  testing::WriteFile(fp8() / "consolidated.safetensors", "x");
  Json config = Json::parse(ReadFile(fp8() / "config.json"));
  config["quantization_config"]["scale_fmt"] = "ue8m0";
  testing::WriteFile(fp8() / "config.json", config.dump());
  options().scales_from = fp8();
  Convert();
  std::map<std::string, std::string> messages;
  for (const formats::Finding& warning : report_.warnings) messages[warning.kind] = warning.message;
  EXPECT_THAT(messages["unlisted-shard"],
              ::testing::AllOf(::testing::StartsWith("--scales-from "),
                               ::testing::HasSubstr("consolidated.safetensors")));
  EXPECT_THAT(messages["scale-fmt-contradiction"], ::testing::StartsWith("--scales-from "));
}

TEST_F(Bf16ToFp8OriginalTest, DeletesTheSourceAndNeverTheOriginal) {
  MakeSample();
  const auto original = ReadTree(fp8());
  options().scales_from = fp8();
  request_.run.delete_source_shards = true;
  Convert();
  EXPECT_EQ(report_.freed_source_shards, 4U);
  EXPECT_TRUE(ReadTree(fp8()) == original);
  EXPECT_EQ(Convert().outcome, ConversionReport::Outcome::kNothingToDo);
}

}  // namespace
}  // namespace dsv3::convert
