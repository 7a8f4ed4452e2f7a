#include "tests/convert/recipes/quantize_test.h"

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/quantize.h"
#include "convert/recipes/quantize_targets.h"
#include "formats/json/json_edit.h"
#include "tests/convert/support/checkpoint_checks.h"
#include "tests/convert/support/matrix_model.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/sanitizers.h"

// The files that quantize makes, and what it refuses.
namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using dsv3::testing::Conversion;
using dsv3::testing::ErrorOf;
using dsv3::testing::FindTensor;
using dsv3::testing::Place;
using dsv3::testing::Poke;
using dsv3::testing::ReadFile;
using dsv3::testing::TensorBytes;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kExpert[] = "model.layers.3.mlp.experts.1.up_proj";
constexpr char kAttention[] = "model.layers.0.self_attn.kv_a_proj_with_mqa";

using dsv3::testing::QuantizeTest;

QuantizeOptions To(QuantizeTo to) {
  QuantizeOptions options;
  options.to = to;
  return options;
}

// Every row of the table; some of them under sanitizers.
std::vector<QuantizeOptions> AllTargets() {
  std::vector<QuantizeOptions> all;
  for (const QuantizeTarget& target : QuantizeTargets()) {
    all.push_back({target.to, target.tool, std::nullopt});
  }
  return dsv3::testing::Thinned(all, 3);
}

TEST_F(QuantizeTest, WritesInt8ForEachRowOfAllLinears) {
  MakeSample();
  const ConversionReport report = Run(bf16(), out(), To(QuantizeTo::kInt8));
  const Json theirs = Json::parse(ReadFile(fp8() / kIndex))["weight_map"];
  std::size_t quantised = 0;
  for (const auto& [name, shard] : theirs.items()) {
    if (name.ends_with("_scale_inv")) continue;
    if (!theirs.contains(name + "_scale_inv")) {
      EXPECT_EQ(TensorBytes(out(), name), TensorBytes(bf16(), name)) << name;
      continue;
    }
    ++quantised;
    const auto expected = Encoded(quant::LlmCompressorInt8(), name);
    const Place codes = FindTensor(out(), name);
    EXPECT_EQ(codes.entry.dtype, formats::Dtype::kI8);
    EXPECT_EQ(codes.file.filename().string(), shard.get<std::string>());
    ASSERT_TRUE(TensorBytes(out(), name) == expected.codes) << name;
    const Place scale = FindTensor(out(), name + "_scale");
    EXPECT_EQ(scale.entry.dtype, formats::Dtype::kBF16);
    EXPECT_EQ(scale.entry.shape, (formats::Shape{codes.entry.shape[0], 1}));
    ASSERT_TRUE(TensorBytes(out(), name + "_scale") == expected.scales) << name;
  }
  EXPECT_EQ(report.converted_tensors, quantised);
  EXPECT_EQ(report.quality.size(), quantised);
  const Json config = Config()["quantization_config"];
  EXPECT_EQ(config["config_groups"]["group_0"]["weights"].dump(),
            R"({"dynamic":false,"group_size":null,"num_bits":8,"strategy":"channel",)"
            R"("symmetric":true,"type":"int"})");
  EXPECT_EQ(config["format"], "int-quantized");
  EXPECT_THAT(config["ignore"].get<std::vector<std::string>>(),
              AllOf(Contains("lm_head"), Contains("model.layers.3.mlp.gate"),
                    Not(Contains("model.embed_tokens"))));
}

TEST_F(QuantizeTest, WritesPackedInt4OfRoutedExperts) {
  MakeSampleOfGroups();
  Run(bf16(), out(), To(QuantizeTo::kInt4));
  const auto expected = Encoded(quant::LlmCompressorInt4(), std::string(kExpert) + ".weight");
  const formats::Shape shape = FindTensor(bf16(), std::string(kExpert) + ".weight").entry.shape;
  EXPECT_TRUE(FindTensor(out(), std::string(kExpert) + ".weight").file.empty());
  const Place codes = FindTensor(out(), std::string(kExpert) + ".weight_packed");
  EXPECT_EQ(codes.entry.dtype, formats::Dtype::kI32);
  EXPECT_EQ(codes.entry.shape, (formats::Shape{shape[0], shape[1] / 8}));
  EXPECT_TRUE(TensorBytes(out(), std::string(kExpert) + ".weight_packed") == expected.codes);
  EXPECT_TRUE(TensorBytes(out(), std::string(kExpert) + ".weight_scale") == expected.scales);
  const std::string stored = TensorBytes(out(), std::string(kExpert) + ".weight_shape");
  std::uint64_t dimensions[2] = {};
  ASSERT_EQ(stored.size(), sizeof dimensions);
  std::memcpy(dimensions, stored.data(), sizeof dimensions);
  EXPECT_EQ(dimensions[0], shape[0]);
  EXPECT_EQ(dimensions[1], shape[1]);
  // Attention, dense MLPs and shared experts stay.
  EXPECT_EQ(FindTensor(out(), std::string(kAttention) + ".weight").entry.dtype,
            formats::Dtype::kBF16);
  const auto ignore = Config()["quantization_config"]["ignore"].get<std::vector<std::string>>();
  EXPECT_THAT(ignore,
              AllOf(Contains(kAttention), Contains("model.layers.0.mlp.up_proj"),
                    Contains("model.layers.3.mlp.shared_experts.up_proj"), Not(Contains(kExpert))));
}

TEST_F(QuantizeTest, WritesInt8InBlocks) {
  MakeSample();
  Run(bf16(), out(), To(QuantizeTo::kInt8Block));
  const auto expected = Encoded(quant::BlockInt8(), std::string(kAttention) + ".weight");
  EXPECT_TRUE(TensorBytes(out(), std::string(kAttention) + ".weight") == expected.codes);
  EXPECT_TRUE(TensorBytes(out(), std::string(kAttention) + ".weight_scale_inv") == expected.scales);
  EXPECT_EQ(Config()["quantization_config"].dump(),
            R"({"activation_scheme":"dynamic","quant_method":"blockwise_int8",)"
            R"("weight_block_size":[128,128]})");
}

TEST_F(QuantizeTest, Fp8HasTheBytesOfBf16ToFp8) {
  MakeSample();
  Run(bf16(), out(), To(QuantizeTo::kFp8));
  Conversion(bf16(), dir_ / "plain", Bf16ToFp8Conversion()).Run();
  EXPECT_TRUE(Bytes(out()) == Bytes(dir_ / "plain"));

  QuantizeOptions options = To(QuantizeTo::kFp8);
  options.tool = QuantizeTool::kLlmCompressor;
  Run(bf16(), dir_ / "compressed", options);
  Conversion(bf16(), dir_ / "plain2",
             Bf16ToFp8Conversion({.recipe = quant::QuantizeRecipe::kLlmCompressor}))
      .Run();
  EXPECT_TRUE(Bytes(dir_ / "compressed") == Bytes(dir_ / "plain2"));
}

TEST_F(QuantizeTest, OneStepHasTheBytesOfTwo) {
  MakeSampleOfGroups();
  for (const QuantizeOptions& options : AllTargets()) {
    SCOPED_TRACE(std::string(QuantizeToName(*options.to)));
    const ConversionReport report = Run(fp8(), dir_ / "one", options);
    Run(bf16(), dir_ / "two", options);
    EXPECT_TRUE(Bytes(dir_ / "one") == Bytes(dir_ / "two"));
    EXPECT_EQ(report.warnings.size(), 0U);
    fs::remove_all(dir_ / "one");
    fs::remove_all(dir_ / "two");
  }
}

TEST_F(QuantizeTest, OneFormBecomesAnother) {
  MakeSampleOfGroups();
  Run(bf16(), dir_ / "int4", To(QuantizeTo::kInt4));
  Conversion(dir_ / "int4", dir_ / "back", DequantizeConversion()).Run();
  for (const QuantizeTo to : {QuantizeTo::kInt8, QuantizeTo::kFp8, QuantizeTo::kInt8Block}) {
    Run(dir_ / "int4", dir_ / "one", To(to));
    Run(dir_ / "back", dir_ / "two", To(to));
    EXPECT_TRUE(Bytes(dir_ / "one") == Bytes(dir_ / "two"));
    fs::remove_all(dir_ / "one");
    fs::remove_all(dir_ / "two");
  }
}

TEST_F(QuantizeTest, DequantizesAndNamesWhatStaysBF16) {
  MakeSampleOfGroups();
  const ConversionReport report = Run(fp8(), out(), To(QuantizeTo::kInt4));
  const std::string weight = std::string(kAttention) + ".weight";
  EXPECT_EQ(TensorBytes(out(), weight), TensorBytes(bf16(), weight));
  for (const ReportFact& fact : report.facts) {
    if (fact.member != "dequantized") continue;
    EXPECT_THAT(fact.names, Contains(weight));
  }
}

TEST_F(QuantizeTest, EveryFormIsReadAndFoundRight) {
  MakeSampleOfGroups();
  for (const QuantizeOptions& options : AllTargets()) {
    SCOPED_TRACE(std::string(QuantizeToName(*options.to)));
    Run(bf16(), out(), options);
    ::dsv3::testing::ExpectWithoutFindings(out());
    Conversion(out(), dir_ / "back", DequantizeConversion()).Run();
    ::dsv3::testing::ExpectWithoutFindings(dir_ / "back");
    const CompareReport compared = ::dsv3::testing::Compare(bf16(), dir_ / "back", 0.05, 0.35);
    EXPECT_EQ(::dsv3::testing::Messages(compared.verification.findings), "");
    ::dsv3::testing::ExpectSoundChecksums(out(), dir_ / "copy");
    for (const char* const name : {"out", "back", "copy"}) fs::remove_all(dir_ / name);
  }
}

TEST_F(QuantizeTest, BytesDependOnNeitherThreadsNorMemoryNorParts) {
  MakeSampleOfGroups();
  for (const QuantizeOptions& options : AllTargets()) {
    Run(fp8(), out(), options);
    const auto expected = Bytes(out());
    Conversion other(fp8(), dir_ / "other", QuantizeConversion(options));
    other.request.run.threads = 3;
    other.request.run.memory_bytes = std::uint64_t{16} << 20;
    other.Run();
    EXPECT_TRUE(Bytes(dir_ / "other") == expected);
    fs::remove_all(out());
    fs::remove_all(dir_ / "other");
  }
}

TEST_F(QuantizeTest, OtherFloatsHaveScalesOfTheirOwn) {
  for (const formats::Dtype dtype : {formats::Dtype::kF16, formats::Dtype::kF32}) {
    ::dsv3::testing::MatrixCheckpoint(dtype).Write(dir_ / "in");
    Run(dir_ / "in", out(), To(QuantizeTo::kInt8));
    EXPECT_EQ(FindTensor(out(), "model.layers.0.mlp.up_proj.weight_scale").entry.dtype, dtype);
    ::dsv3::testing::ExpectWithoutFindings(out());
    fs::remove_all(dir_ / "in");
    fs::remove_all(out());
  }
}

// The packed codes of zeros are not zeros.
TEST_F(QuantizeTest, NamesWeightsThatAreAllZero) {
  MakeSampleOfGroups();
  const std::string weight = std::string(kExpert) + ".weight";
  Poke(bf16(), weight, 0, std::string(TensorBytes(bf16(), weight).size(), '\0'));
  for (const QuantizeTo to : {QuantizeTo::kInt8, QuantizeTo::kInt4}) {
    const ConversionReport report = Run(bf16(), out(), To(to));
    ASSERT_EQ(report.all_zero.size(), 1U);
    EXPECT_THAT(report.all_zero[0], ::testing::StartsWith(weight));
    fs::remove_all(out());
  }
}

TEST_F(QuantizeTest, NamesTensorRowAndColumnOfNaN) {
  MakeSampleOfGroups();
  const std::uint64_t cols = FindTensor(bf16(), std::string(kExpert) + ".weight").entry.shape[1];
  Poke(bf16(), std::string(kExpert) + ".weight", (2 * cols + 5) * 2, std::string("\xC0\x7F", 2));
  for (const QuantizeOptions& options : AllTargets()) {
    const Error error = ErrorOf([&] { Run(bf16(), out(), options); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(), AllOf(HasSubstr(std::string(kExpert) + ".weight"),
                                       HasSubstr("is NaN at row 2, column 5")));
    fs::remove_all(out());
  }
}

TEST_F(QuantizeTest, SaysWhichFormsThereAreWhereNoneIsAskedFor) {
  const Error error = ErrorOf([&] { TargetOf({}); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("give the form to write: int8, int8-block, int4, nvfp4"));
}

TEST_F(QuantizeTest, RefusesBadScalesOfAQuantisedSource) {
  MakeSample();
  Poke(fp8(), std::string(kExpert) + ".weight_scale_inv", 0, std::string("\0\0\xC0\x7F", 4));
  const Error error = ErrorOf([&] { Run(fp8(), out(), To(QuantizeTo::kInt8)); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr(std::string(kExpert) + ".weight_scale_inv"));
}

TEST_F(QuantizeTest, RefusesGroupsThatDoNotDivideTheColumns) {
  ::dsv3::testing::MatrixCheckpoint(formats::Dtype::kBF16).Write(dir_ / "in");
  const Error error = ErrorOf([&] { Run(dir_ / "in", out(), To(QuantizeTo::kInt4)); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("experts.0."), HasSubstr("groups of 32")));
}

TEST_F(QuantizeTest, RefusesExpertsInOneTensor) {
  ::dsv3::testing::MatrixCheckpoint(formats::Dtype::kBF16, /*fused=*/true).Write(dir_ / "in");
  const Error error = ErrorOf([&] { Run(dir_ / "in", out(), To(QuantizeTo::kInt8)); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("experts.down_proj"), HasSubstr("--to hf")));
  // FP8 has a form for them.
  Run(dir_ / "in", out(), To(QuantizeTo::kFp8));
}

TEST_F(QuantizeTest, RefusesNamesThatAreTaken) {
  ::dsv3::testing::TinyCheckpoint checkpoint =
      ::dsv3::testing::MatrixCheckpoint(formats::Dtype::kBF16);
  checkpoint.Add(::dsv3::testing::kTinyShard1, "model.layers.0.mlp.up_proj.weight_scale",
                 formats::Dtype::kI64, {1});
  checkpoint.Write(dir_ / "in");
  const Error error = ErrorOf([&] { Run(dir_ / "in", out(), To(QuantizeTo::kInt8)); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("model.layers.0.mlp.up_proj.weight_scale"));
}

TEST_F(QuantizeTest, RefusesModelsThatItDoesNotKnow) {
  ::dsv3::testing::SmallFp8Checkpoint().Write(dir_ / "in");
  const Error error = ErrorOf([&] { Run(dir_ / "in", out(), To(QuantizeTo::kInt8)); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("model_type"), Not(HasSubstr("--include"))));
}

TEST_F(QuantizeTest, RefusesToolsThatDoNotWriteAForm) {
  MakeSample();
  QuantizeOptions options = To(QuantizeTo::kInt8Block);
  options.tool = QuantizeTool::kLlmCompressor;
  Error error = ErrorOf([&] { Run(bf16(), out(), options); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("written by deepseek"));
  error = ErrorOf([&] { Run(bf16(), out(), {}); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("--to"));
}

TEST_F(QuantizeTest, HonoursModulesNotToConvertForFp8Alone) {
  MakeSample();
  EditConfig("quantization_config",
             R"({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp"]})");
  const ConversionReport report = Run(bf16(), out(), To(QuantizeTo::kFp8));
  EXPECT_EQ(report.warnings.at(0).kind, "stale-quantization-config");
  EXPECT_EQ(FindTensor(out(), "model.layers.0.mlp.up_proj.weight").entry.dtype,
            formats::Dtype::kBF16);
  fs::remove_all(out());
  Run(bf16(), out(), To(QuantizeTo::kInt8));
  EXPECT_EQ(FindTensor(out(), "model.layers.0.mlp.up_proj.weight").entry.dtype,
            formats::Dtype::kI8);
}

}  // namespace
}  // namespace dsv3::convert
