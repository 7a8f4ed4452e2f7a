#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/recipes/reshard_job.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::RankFormat;
using convert::ReshardOptions;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using Json = nlohmann::json;
using Tensors = std::map<std::string, HeldTensor>;

constexpr char kLayer[] = "model.layers.1.";

// The tiny-tp preset under an engine's keys.
class ReshardKeysTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir(MemoryDirectory());
    MakeSample(convert::SamplePreset::kTinyTp, 11, *shared_ / "model");
    source_ = new Tensors(ReadCheckpoint(*shared_ / "model"));
  }
  static void TearDownTestSuite() {
    delete source_;
    delete shared_;
  }

  fs::path model() const { return *shared_ / "model"; }
  fs::path out() const { return dir_ / "out"; }
  static const HeldTensor& Source(const std::string& name) { return source_->at(name); }

  // Adds a key; without sources for an empty list.
  void Add(const std::string& key, const char* dtype, const std::vector<int>& shape,
           const std::vector<std::string>& sources = {}) {
    Json entry = {{"dtype", dtype}, {"shape", shape}};
    if (!sources.empty()) entry["sources"] = sources;
    keys_[key] = entry;
  }

  ReshardOptions Options(std::uint64_t tp, std::uint64_t ep) const {
    WriteFile(dir_ / "keys.json", keys_.dump());
    ReshardOptions options;
    options.parallel.tp = tp;
    options.parallel.ep = ep;
    options.format = RankFormat::kKeys;
    options.keys = dir_ / "keys.json";
    return options;
  }
  Error Refusal(const ReshardOptions& options) const {
    Error error = ErrorOf([&] { RunReshard(model(), out(), options); });
    EXPECT_FALSE(fs::exists(out()));
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(), HasSubstr("keys.json"));
    return error;
  }
  static std::string Expert(int expert, const char* projection) {
    return fmt::format("{}mlp.experts.{}.{}.weight", kLayer, expert, projection);
  }

  TempDir dir_{MemoryDirectory()};
  Json keys_ = Json::object();
  static TempDir* shared_;
  static Tensors* source_;
};

TempDir* ReshardKeysTest::shared_ = nullptr;
Tensors* ReshardKeysTest::source_ = nullptr;

TEST_F(ReshardKeysTest, SourcesStandOneBehindTheOtherAsTheRankHoldsThem) {
  const std::string attention = std::string(kLayer) + "self_attn.";
  // Latents are whole in every rank; gate and up are cut and fused.
  Add("fused_qkv_a", "torch.float8_e4m3fn", {768, 192},
      {attention + "q_a_proj.weight", attention + "kv_a_proj_with_mqa.weight"});
  Add("dense.gate_up", "F8_E4M3", {1024, 192},
      {"model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"});
  Add(attention + "o_proj.weight", "float8_e4m3fn", {192, 512});
  Add("norm", "bfloat16", {192}, {"model.norm.weight"});
  std::vector<std::string> w13;
  for (int expert = 0; expert < 32; ++expert) {
    w13.push_back(Expert(expert, "gate_proj"));
    w13.push_back(Expert(expert, "up_proj"));
  }
  Add("experts.w13", "F8_E4M3", {16, 512, 192}, w13);
  const convert::ReshardReport report = RunReshard(model(), out(), Options(2, 2));
  for (std::uint64_t rank = 0; rank < 2; ++rank) {
    const std::string file = fmt::format("model-rank-{}-part-0.safetensors", rank);
    EXPECT_THAT(report.ranks.at(rank).files, ::testing::ElementsAre(file));
    const Tensors held = ReadTensors(out() / file);
    EXPECT_THAT(held, SizeIs(5));
    EXPECT_EQ(held.at("fused_qkv_a").bytes,
              Source(attention + "q_a_proj.weight").bytes +
                  Source(attention + "kv_a_proj_with_mqa.weight").bytes);
    const auto rows = [&](const std::string& name) {
      return CutOut(Source(name), 512 * rank, 512, 0, 192).bytes;
    };
    EXPECT_EQ(held.at("dense.gate_up").bytes, rows("model.layers.0.mlp.gate_proj.weight") +
                                                  rows("model.layers.0.mlp.up_proj.weight"));
    EXPECT_EQ(held.at(attention + "o_proj.weight"),
              CutOut(Source(attention + "o_proj.weight"), 0, 192, 512 * rank, 512));
    std::string experts;
    for (int expert = 0; expert < 16; ++expert) {
      const int logical = static_cast<int>(rank) * 16 + expert;
      experts += Source(Expert(logical, "gate_proj")).bytes;
      experts += Source(Expert(logical, "up_proj")).bytes;
    }
    EXPECT_EQ(held.at("experts.w13").shape, (formats::Shape{16, 512, 192}));
    EXPECT_EQ(held.at("experts.w13").bytes, experts);
  }
}

TEST_F(ReshardKeysTest, ATensorMayStandUnderSeveralKeys) {
  const std::string norm = "model.norm.weight";
  const std::string other = std::string(kLayer) + "input_layernorm.weight";
  Add("a", "BF16", {384}, {norm, other});
  Add("b", "BF16", {384}, {other, norm});
  Add(norm, "BF16", {192});
  RunReshard(model(), out(), Options(2, 1));
  const Tensors held = ReadTensors(out() / "model-rank-1-part-0.safetensors");
  EXPECT_EQ(held.at("a").bytes, Source(norm).bytes + Source(other).bytes);
  EXPECT_EQ(held.at("b").bytes, Source(other).bytes + Source(norm).bytes);
  EXPECT_EQ(held.at(norm), Source(norm));
}

TEST_F(ReshardKeysTest, PaddingStaysAtTheEnd) {
  Add("lm_head.weight", "BF16", {512, 192});
  RunReshard(model(), out(), Options(2, 1));
  EXPECT_EQ(ReadTensors(out() / "model-rank-1-part-0.safetensors").at("lm_head.weight"),
            CutOut(Source("lm_head.weight"), 512, 512, 0, 192));
}

TEST_F(ReshardKeysTest, WhatNoKeyTakesIsCountedAndListed) {
  Add("model.norm.weight", "BF16", {192});
  const convert::ReshardReport report = RunReshard(model(), out(), Options(2, 1));
  ASSERT_THAT(report.conversion.warnings, SizeIs(1));
  EXPECT_EQ(report.conversion.warnings[0].kind, "unused-tensor");
  EXPECT_THAT(report.conversion.warnings[0].message,
              HasSubstr(fmt::format("{} others", source_->size() - 2)));
  EXPECT_EQ(report.dropped.size(), source_->size() - 1);
  EXPECT_EQ(Json::parse(ReadFile(out() / "layout.json"))["dropped"].size(), source_->size() - 1);
}

TEST_F(ReshardKeysTest, RefusesUnknownKeysAndSources) {
  Add("model.norm.wait", "BF16", {192});
  EXPECT_THAT(Refusal(Options(2, 1)).message(),
              AllOf(HasSubstr("key 'model.norm.wait'"), HasSubstr("unknown")));
  keys_ = Json::object();
  Add("norm", "BF16", {192}, {"model.norm.wait"});
  EXPECT_THAT(Refusal(Options(2, 1)).message(),
              AllOf(HasSubstr("key 'norm'"), HasSubstr("no tensor 'model.norm.wait'")));
  keys_ = Json::object();
  Add("model.layers.4.enorm.weight", "BF16", {192});
  ReshardOptions options = Options(2, 1);
  options.keep_mtp = false;
  EXPECT_THAT(Refusal(options).message(), HasSubstr("MTP"));
}

TEST_F(ReshardKeysTest, RefusesDtypesAndShapesThatTheSourcesDoNotGive) {
  Add("norm", "F32", {192}, {"model.norm.weight"});
  EXPECT_THAT(Refusal(Options(2, 1)).message(), AllOf(HasSubstr("key 'norm'"), HasSubstr("rank 0"),
                                                      HasSubstr("F32 [192]"), HasSubstr("BF16")));
  keys_ = Json::object();
  // The rank's part is [512, 192].
  Add("model.layers.0.mlp.gate_proj.weight", "F8_E4M3", {1024, 192});
  EXPECT_THAT(Refusal(Options(2, 1)).message(),
              AllOf(HasSubstr("F8_E4M3 [1024, 192]"), HasSubstr("F8_E4M3 [512, 192]")));
  keys_ = Json::object();
  // As many bytes, but transposed.
  Add("model.layers.0.mlp.gate_proj.weight", "F8_E4M3", {192, 512});
  EXPECT_THAT(Refusal(Options(2, 1)).message(), HasSubstr("[192, 512]"));
  keys_ = Json::object();
  Add("mixed", "F8_E4M3", {1, 1}, {"model.norm.weight", "model.layers.0.mlp.gate_proj.weight"});
  EXPECT_THAT(Refusal(Options(2, 1)).message(), HasSubstr("one behind the other"));
}

TEST_F(ReshardKeysTest, RefusesARankWithoutKeys) {
  Add("lm_head.weight", "BF16", {512, 192});
  ReshardOptions options = Options(2, 1);
  options.parallel.pp = 2;
  const Error error = ErrorOf([&] { RunReshard(model(), out(), options); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("rank 0 would hold no tensor"));
}

}  // namespace
}  // namespace dsv3::testing
