#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/job/runner.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "formats/json/json_edit.h"
#include "tests/convert/support/bf16_to_fp8_test.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"

// The files that bf16-to-fp8 makes, and what it refuses.
namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::ErrorOf;
using testing::FindTensor;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::Place;
using testing::Poke;
using testing::ReadFile;
using testing::ReadTree;
using testing::TensorBytes;
using testing::WriteFile;
using Json = nlohmann::json;

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kManifest = "checkpoint.manifest.json";
constexpr const char* kOProj = "model.layers.0.self_attn.o_proj.weight";

using Bf16ToFp8JobTest = testing::Bf16ToFp8Test;

TEST_F(Bf16ToFp8JobTest, QuantisesWhatTheReleasesQuantise) {
  MakeSample();
  Convert();
  // Shapes and dtypes of all tensors are those of the release.
  const Json theirs = Json::parse(ReadFile(fp8() / kIndex))["weight_map"];
  const Json ours = Json::parse(ReadFile(out() / kIndex))["weight_map"];
  EXPECT_EQ(ours.size(), theirs.size());
  for (const auto& [name, shard] : theirs.items()) {
    const Place a = FindTensor(fp8(), name);
    const Place b = FindTensor(out(), name);
    ASSERT_FALSE(b.file.empty()) << name;
    EXPECT_EQ(a.entry.dtype, b.entry.dtype) << name;
    EXPECT_EQ(a.entry.shape, b.entry.shape) << name;
    if (name.ends_with("_scale_inv")) {
      const std::string weight = name.substr(0, name.size() - std::strlen("_scale_inv"));
      EXPECT_EQ(ours[name], ours[weight]) << "a scale goes beside its weight";
    } else {
      EXPECT_EQ(ours[name], shard) << "the source's assignment is kept";
    }
  }
  // Equal codes: these weights came from codes whose largest is 448.
  EXPECT_EQ(TensorBytes(out(), kOProj), TensorBytes(fp8(), kOProj));
}

TEST_F(Bf16ToFp8JobTest, WritesTheConfigAsDeepSeekDoes) {
  MakeSample();
  Convert();
  EXPECT_EQ(Config()["quantization_config"].dump(),
            R"({"activation_scheme":"dynamic","fmt":"e4m3","quant_method":"fp8",)"
            R"("weight_block_size":[128,128]})");
  EXPECT_EQ(Config()["torch_dtype"], "bfloat16");
  // All else is the source's, byte for byte.
  EXPECT_EQ(formats::RemoveJsonMember(ReadFile(out() / "config.json"), "quantization_config", ""),
            ReadFile(bf16() / "config.json"));
}

TEST_F(Bf16ToFp8JobTest, WritesEveryFormOfScales) {
  MakeSample();
  struct Case {
    Bf16ToFp8Options options;
    std::string scale_suffix;
    formats::Dtype dtype;
    formats::Shape shape;  // of q_a_proj's scale, [192, 256] weight
    std::string config;    // what the config holds
  };
  using quant::BlockForm;
  using quant::QuantizeRecipe;
  using quant::ScaleFmt;
  const formats::Shape weight =
      FindTensor(bf16(), "model.layers.0.self_attn.kv_a_proj_with_mqa.weight").entry.shape;
  const std::uint64_t rows = weight[0];
  const std::uint64_t cols = weight[1];
  const auto ceil = [](std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; };
  std::vector<Case> cases(8);
  cases[0] = {{},
              ".weight_scale_inv",
              formats::Dtype::kF32,
              {ceil(rows, 128), ceil(cols, 128)},
              "[128,128]"};
  cases[1] = {{},
              ".weight_scale_inv",
              formats::Dtype::kF32,
              {ceil(rows, 128), ceil(cols, 128)},
              "\"scale_fmt\":\"ue8m0\""};
  cases[1].options.scale_fmt = ScaleFmt::kUe8m0;
  cases[2] = {{}, ".scale", formats::Dtype::kF8E8M0, {ceil(rows, 32), ceil(cols, 32)}, "[32,32]"};
  cases[2].options.scale_fmt = ScaleFmt::kE8M0;
  cases[2].options.scale_name = ScaleNaming::kScale;
  cases[2].options.block = QuantizeBlock{BlockForm::kBlock, {32, 32}};
  cases[3] = {{}, ".weight_scale_inv", formats::Dtype::kF8E8M0, {rows, ceil(cols, 128)}, "[1,128]"};
  cases[3].options.scale_fmt = ScaleFmt::kE8M0;
  cases[3].options.recipe = QuantizeRecipe::kTransformers;
  cases[3].options.block = QuantizeBlock{BlockForm::kBlock, {1, 128}};
  cases[4] = {{},
              ".weight_scale",
              formats::Dtype::kBF16,
              {ceil(rows, 128), ceil(cols, 128)},
              "\"block_structure\":[128,128]"};
  cases[4].options.recipe = QuantizeRecipe::kLlmCompressor;
  cases[5] = {{}, ".weight_scale", formats::Dtype::kF32, {rows, 1}, "\"strategy\":\"channel\""};
  cases[5].options.block = QuantizeBlock{BlockForm::kRow, {}};
  cases[6] = {{}, ".weight_scale", formats::Dtype::kF32, {1}, "\"strategy\":\"tensor\""};
  cases[6].options.block = QuantizeBlock{BlockForm::kTensor, {}};
  cases[7] = {
      {}, ".weight_scale_inv", formats::Dtype::kF32, {ceil(rows, 48), ceil(cols, 40)}, "[48,40]"};
  cases[7].options.recipe = QuantizeRecipe::kDeepGemm;
  cases[7].options.block = QuantizeBlock{BlockForm::kBlock, {48, 40}};
  for (const Case& each : cases) {
    SCOPED_TRACE(each.config);
    fs::remove_all(out());
    options() = each.options;
    Convert();
    const Place scale =
        FindTensor(out(), "model.layers.0.self_attn.kv_a_proj_with_mqa" + each.scale_suffix);
    ASSERT_FALSE(scale.file.empty());
    EXPECT_EQ(scale.entry.dtype, each.dtype);
    EXPECT_EQ(scale.entry.shape, each.shape);
    EXPECT_THAT(Config()["quantization_config"].dump(), HasSubstr(each.config));
    // What was written is read again: to BF16, and from there back to the same bytes.
    const fs::path again = dir_ / "again";
    fs::remove_all(again);
    JobRequest back;
    back.input = out();
    back.output = again;
    ProgressSink progress;
    const StopToken stop;
    RunConversion(Fp8ToBf16Conversion(), back, quick_, progress, stop);
    JobRequest forth;
    forth.input = again;
    forth.output = dir_ / "forth";
    fs::remove_all(forth.output);
    RunConversion(Bf16ToFp8Conversion({.scales_from = out()}), forth, quick_, progress, stop);
    auto expected = ReadTree(out());
    auto tree = ReadTree(forth.output);
    expected.erase(kManifest);
    tree.erase(kManifest);
    EXPECT_TRUE(tree == expected);
  }
}

TEST_F(Bf16ToFp8JobTest, HonoursAndWritesModulesNotToConvert) {
  MakeSample();
  EditConfig("quantization_config",
             R"({"quant_method": "fp8", "modules_to_not_convert": ["layers.0.mlp", "lm_head"]})");
  options().exclude = {"*.q_a_proj.weight"};
  options().include = {"lm_head.weight"};
  Convert();
  EXPECT_EQ(FindTensor(out(), "model.layers.0.mlp.up_proj.weight").entry.dtype,
            formats::Dtype::kBF16);
  EXPECT_EQ(FindTensor(out(), "lm_head.weight").entry.dtype, formats::Dtype::kF8E4M3);
  EXPECT_EQ(report_.warnings.at(0).kind, "stale-quantization-config");
  const Json list = Config()["quantization_config"]["modules_to_not_convert"];
  EXPECT_THAT(list.get<std::vector<std::string>>(),
              AllOf(Contains("layers.0.mlp"), Contains("model.layers.0.self_attn.q_a_proj"),
                    Not(Contains("lm_head")), Not(Contains("model.layers.0.mlp.up_proj"))));
}

TEST_F(Bf16ToFp8JobTest, HonoursTheListThatTheManifestKept) {
  MakeSample();
  fs::remove_all(bf16());
  const std::string kept = R"({"activation_scheme": "dynamic", "fmt": "e4m3",
     "modules_to_not_convert": ["model.layers.9"], "quant_method": "fp8",
     "weight_block_size": [128, 128]})";
  WriteFile(fp8() / "config.json",
            formats::ReplaceJsonMember(ReadFile(fp8() / "config.json"), "quantization_config", kept,
                                       "config.json"));
  JobRequest request;
  request.input = fp8();
  request.output = bf16();
  ProgressSink progress;
  const StopToken stop;
  RunConversion(Fp8ToBf16Conversion(), request, quick_, progress, stop);
  Convert();
  // It says what was written, so it stands there as it was spelled.
  EXPECT_THAT(ReadFile(out() / "config.json"), HasSubstr(kept));
}

TEST_F(Bf16ToFp8JobTest, HonoursIgnoredLayersAndKeepsTheirName) {
  MakeSample();
  EditConfig("quantization_config",
             R"({"quant_method": "fp8", "ignored_layers": ["model.layers.0.mlp"]})");
  options().exclude = {"*.q_a_proj.weight"};
  Convert();
  EXPECT_EQ(FindTensor(out(), "model.layers.0.mlp.up_proj.weight").entry.dtype,
            formats::Dtype::kBF16);
  const Json quantization = Config()["quantization_config"];
  EXPECT_FALSE(quantization.contains("modules_to_not_convert"));
  EXPECT_THAT(quantization["ignored_layers"].get<std::vector<std::string>>(),
              AllOf(Contains("model.layers.0.mlp"), Contains("model.layers.0.self_attn.q_a_proj")));
}

TEST_F(Bf16ToFp8JobTest, KeepsIgnoredLayersOfTheManifestAsTheyWereSpelled) {
  MakeSample();
  fs::remove_all(bf16());
  const std::string kept = R"({"quant_method": "fp8", "activation_scheme": "dynamic",
     "ignored_layers": ["model.layers.9"], "fmt": "e4m3", "weight_block_size": [128, 128]})";
  WriteFile(fp8() / "config.json",
            formats::ReplaceJsonMember(ReadFile(fp8() / "config.json"), "quantization_config", kept,
                                       "config.json"));
  JobRequest request;
  request.input = fp8();
  request.output = bf16();
  ProgressSink progress;
  const StopToken stop;
  RunConversion(Fp8ToBf16Conversion(), request, quick_, progress, stop);
  Convert();
  EXPECT_THAT(ReadFile(out() / "config.json"), HasSubstr(kept));
}

TEST_F(Bf16ToFp8JobTest, ExcludeWinsOverInclude) {
  MakeSample();
  options().include = {"lm_head.weight", "*eh_proj.weight"};
  options().exclude = {"lm_*"};
  Convert();
  EXPECT_EQ(FindTensor(out(), "lm_head.weight").entry.dtype, formats::Dtype::kBF16);
  EXPECT_EQ(FindTensor(out(), "model.layers.4.eh_proj.weight").entry.dtype,
            formats::Dtype::kF8E4M3);
}

TEST_F(Bf16ToFp8JobTest, RefusesWhatIsNoBf16Checkpoint) {
  MakeSample();
  request_.input = fp8();
  request_.output = out();
  ProgressSink progress;
  const StopToken stop;
  const Error error =
      ErrorOf([&] { RunConversion(Bf16ToFp8Conversion(), request_, quick_, progress, stop); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("is an FP8 checkpoint already"));
}

TEST_F(Bf16ToFp8JobTest, RefusesGlobsThatMatchNothingOrTooMuch) {
  MakeSample();
  options().include = {"no.such.*"};
  ExpectRefused(ErrorCode::kUsage, {"--include 'no.such.*'", "no tensor"});
  options().include = {"model.norm.weight"};
  ExpectRefused(ErrorCode::kBadInput, {"model.norm.weight", "shape [256]", "--exclude"});
  options().include.clear();
  options().exclude = {"*"};
  ExpectRefused(ErrorCode::kUsage, {"--exclude leaves no tensor"});
  options().exclude = {"nothing.here"};
  Convert();
  EXPECT_EQ(report_.warnings.at(0).kind, "useless-exclude");
}

TEST_F(Bf16ToFp8JobTest, RefusesFormsThatAToolLacks) {
  using quant::QuantizeRecipe;
  options().recipe = QuantizeRecipe::kLlmCompressor;
  options().scale_fmt = quant::ScaleFmt::kE8M0;
  ExpectRefused(ErrorCode::kUsage, {"--recipe llm-compressor", "--scale-fmt e8m0"});
  options().scale_fmt.reset();
  options().scale_name = ScaleNaming::kScale;
  ExpectRefused(ErrorCode::kUsage, {"--scale-name scale contradicts --recipe llm-compressor"});
  options().recipe = QuantizeRecipe::kTransformers;
  options().scale_name.reset();
  options().block = QuantizeBlock{quant::BlockForm::kRow, {}};
  ExpectRefused(ErrorCode::kUsage, {"--recipe transformers", "--block row"});
  options().recipe.reset();
  options().scale_name = ScaleNaming::kScaleInv;
  ExpectRefused(ErrorCode::kUsage, {"--scale-name weight_scale_inv contradicts --block row"});
}

TEST_F(Bf16ToFp8JobTest, NamesTensorRowAndColumnOfANan) {
  MakeSample();
  const std::uint64_t cols = FindTensor(bf16(), kOProj).entry.shape[1];
  Poke(bf16(), kOProj, 2 * (130 * cols + 7), std::string("\xc0\x7f", 2));
  Poke(bf16(), kOProj, 2 * (130 * cols + 9), std::string("\x80\xff", 2));
  ExpectRefused(ErrorCode::kBadInput, {kOProj, "NaN", "row 130, column 7", "--nonfinite saturate"});
  options().block = QuantizeBlock{quant::BlockForm::kTensor, {}};
  fs::remove_all(out());
  ExpectRefused(ErrorCode::kBadInput, {kOProj, "NaN", "row 130, column 7"});
  fs::remove_all(out());
  options().nonfinite = quant::Nonfinite::kSaturate;
  Convert();
  for (const TensorQuality& each : report_.quality) {
    EXPECT_EQ(each.quality.nonfinite, each.tensor == kOProj ? 2U : 0U) << each.tensor;
  }
}

TEST_F(Bf16ToFp8JobTest, RefusesAnUnknownModelUnlessTensorsAreNamed) {
  testing::TinyCheckpoint checkpoint;
  checkpoint.config = R"({"model_type": "tiny_for_tests"})";
  checkpoint.Add("model.safetensors", "a.weight", formats::Dtype::kBF16, {4, 8});
  checkpoint.Add("model.safetensors", "b.weight", formats::Dtype::kBF16, {4, 8});
  checkpoint.Add("model.safetensors", "norm.weight", formats::Dtype::kF32, {8});
  checkpoint.has_index = false;
  checkpoint.Write(bf16());
  options().nonfinite = quant::Nonfinite::kSaturate;
  ExpectRefused(ErrorCode::kBadInput, {"tiny_for_tests", "--include"});
  options().include = {"a.*"};
  Convert();
  EXPECT_EQ(report_.converted_tensors, 1U);
  EXPECT_EQ(Config()["quantization_config"]["modules_to_not_convert"], Json({"b"}));
}

TEST_F(Bf16ToFp8JobTest, QuantisesFusedExpertsAsMatrices) {
  testing::TinyCheckpoint checkpoint;
  checkpoint.config = R"({"model_type": "tiny_for_tests"})";
  std::string bytes;
  for (int expert = 0; expert < 3; ++expert) {
    for (int i = 0; i < 6 * 4; ++i) bytes += std::string("\x80") + static_cast<char>(0x3f + expert);
  }
  checkpoint.tensors.push_back(
      {"model.safetensors", "experts.gate_up_proj", formats::Dtype::kBF16, {3, 6, 4}, bytes});
  checkpoint.has_index = false;
  checkpoint.Write(bf16());
  options().include = {"experts.*"};
  options().block = QuantizeBlock{quant::BlockForm::kBlock, {4, 4}};
  Convert();
  const Place scale = FindTensor(out(), "experts.gate_up_proj_scale_inv");
  EXPECT_EQ(scale.entry.shape, (formats::Shape{3, 2, 1}));
  const std::string scales = TensorBytes(out(), "experts.gate_up_proj_scale_inv");
  std::vector<float> values(6);
  std::memcpy(values.data(), scales.data(), scales.size());
  // BF16 0x3f80 is 1, 0x4080 is 4, 0x4180 is 16.
  EXPECT_THAT(values, ElementsAre(1.0F / 448, 1.0F / 448, 4.0F / 448, 4.0F / 448, 16.0F / 448,
                                  16.0F / 448));
  EXPECT_EQ(TensorBytes(out(), "experts.gate_up_proj"), std::string(72, '\x7e'));
  Poke(bf16(), "experts.gate_up_proj", 2 * (24 + 5), std::string("\x80\x7f", 2));
  fs::remove_all(out());
  ExpectRefused(ErrorCode::kBadInput, {"matrix 1, row 1, column 1", "infinite"});
}

TEST_F(Bf16ToFp8JobTest, CopiesWeightsThatAreFp8Already) {
  testing::TinyCheckpoint checkpoint;
  checkpoint.config = R"({"model_type": "tiny_for_tests"})";
  checkpoint.Add("model.safetensors", "a.weight", formats::Dtype::kF32, {4, 8}).bytes =
      std::string(128, '\0');
  const std::string codes =
      checkpoint.Add("model.safetensors", "b.weight", formats::Dtype::kF8E4M3, {4, 8}).bytes;
  checkpoint.AddScale("model.safetensors", "b.weight_scale_inv", formats::Dtype::kF32, {1, 1});
  checkpoint.has_index = false;
  checkpoint.Write(bf16());
  options().include = {"a.*"};
  Convert();
  EXPECT_EQ(TensorBytes(out(), "b.weight"), codes);
  EXPECT_THAT(report_.already_fp8, ElementsAre("b.weight"));
  ASSERT_THAT(report_.warnings, Not(IsEmpty()));
  EXPECT_THAT(report_.warnings.back().message, HasSubstr("'b.weight'"));
  // A block of zeros has the scale 1.
  EXPECT_EQ(TensorBytes(out(), "a.weight_scale_inv"), std::string("\0\0\x80\x3f", 4));
  fs::remove_all(out());
  options().block = QuantizeBlock{quant::BlockForm::kBlock, {2, 2}};
  ExpectRefused(ErrorCode::kBadInput, {"b.weight_scale_inv", "[1, 1]", "[2, 4]"});
}

}  // namespace
}  // namespace dsv3::convert
