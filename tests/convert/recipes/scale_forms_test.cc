#include <cstdint>
#include <filesystem>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job.h"
#include "tests/convert/bad_input/bad_input_test.h"
#include "tests/convert/recipes/expected_bf16.h"
#include "tests/convert/support/conversion.h"
#include "tests/support/files.h"

// fp8-to-bf16 of every form in which the family stores scales.
namespace dsv3::testing {
namespace {

using formats::Dtype;
using formats::Shape;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A weight with its scales, and what they mean.
struct Pair {
  std::string weight;
  std::string scale;
  Shape shape;
  Shape scale_shape;
  // Of each matrix.
  std::uint64_t block_rows;
  std::uint64_t block_cols;
  Dtype scale_dtype = Dtype::kF32;
  Dtype dtype = Dtype::kF8E4M3;
};

struct Form {
  const char* name;
  std::string config;
  std::vector<Pair> pairs;
};

void PrintTo(const Form& form, std::ostream* out) { *out << form.name; }

std::string Fp8(const std::string& members) {
  return fmt::format(R"({{"quantization_config": {{"quant_method": "fp8"{}}}}})", members);
}

// The config of compressed-tensors with one group.
std::string Compressed(const std::string& weights, const char* format = "float-quantized",
                       const char* member = "quantization_config") {
  return fmt::format(
      R"({{"{}": {{"quant_method": "compressed-tensors", "format": "{}", "ignore": ["lm_head"],
          "config_groups": {{"group_0": {{"targets": ["Linear"],
              "weights": {{"num_bits": 8, "type": "float", {}}}}}}}}}}})",
      member, format, weights);
}

constexpr std::uint64_t kAll = 1'000'000;

const Form kForms[] = {
    {"DeepSeekBlocks",
     Fp8(R"(, "weight_block_size": [128, 128])"),
     {{"a.weight", "a.weight_scale_inv", {130, 300}, {2, 3}, 128, 128},
      {"b.weight", "b.weight_scale_inv", {576, 16}, {5, 1}, 128, 128, Dtype::kBF16}}},
    {"Ue8m0InF32AndE8m0Tensors",
     Fp8(R"(, "weight_block_size": [32, 32])"),
     {{"a.weight", "a.weight_scale_inv", {70, 33}, {3, 2}, 32, 32, Dtype::kF8E8M0},
      {"b.weight", "b.weight_scale_inv", {7, 64}, {1, 2}, 32, 32}}},
    {"V4Names",
     Fp8(R"(, "scale_fmt": "ue8m0", "weight_block_size": [128, 128])"),
     {{"layers.0.attn.wq_a.weight",
       "layers.0.attn.wq_a.scale",
       {200, 130},
       {2, 2},
       128,
       128,
       Dtype::kF8E8M0},
      {"mtp.0.ffn.w1.weight", "mtp.0.ffn.w1.scale", {3, 5}, {1, 1}, 128, 128, Dtype::kF8E8M0}}},
    {"RowTiles",
     Fp8(R"(, "weight_block_size": [1, 128])"),
     {{"a.weight", "a.weight_scale_inv", {9, 300}, {9, 3}, 1, 128}}},
    {"CompressedBlocks",
     Compressed(R"("strategy": "block", "block_structure": [16, 8])"),
     {{"a.weight", "a.weight_scale", {33, 20}, {3, 3}, 16, 8, Dtype::kBF16}}},
    {"CompressedBlocksAsText",
     Compressed(R"("strategy": "block", "block_structure": "16x8")"),
     {{"a.weight", "a.weight_scale", {33, 20}, {3, 3}, 16, 8}}},
    {"CompressedChannels",
     Compressed(R"("strategy": "channel")"),
     {{"a.weight", "a.weight_scale", {33, 20}, {33, 1}, 1, kAll},
      {"b.weight", "b.weight_scale", {5, 700}, {5}, 1, kAll, Dtype::kBF16}}},
    {"CompressedTensors",
     Compressed(R"("strategy": "tensor")"),
     {{"a.weight", "a.weight_scale", {33, 20}, {1}, kAll, kAll},
      {"b.weight", "b.weight_scale", {5, 7}, {}, kAll, kAll, Dtype::kBF16}}},
    {"CompressedGroups",
     Compressed(R"("strategy": "group", "group_size": 16)"),
     {{"a.weight", "a.weight_scale", {3, 40}, {3, 3}, 1, 16}}},
    {"CompressedWithoutStrategy",
     Compressed(R"("group_size": null)"),
     {{"a.weight", "a.weight_scale", {3, 40}, {1}, kAll, kAll}}},
    {"CompressedWholeRowsAsGroups",
     Compressed(R"("group_size": -1)"),
     {{"a.weight", "a.weight_scale", {3, 40}, {3, 1}, 1, kAll}}},
    {"OlderCompressionConfig",
     Compressed(R"("strategy": "channel")", "float-quantized", "compression_config"),
     {{"a.weight", "a.weight_scale", {3, 40}, {3, 1}, 1, kAll}}},
    {"MxFp8WithBytesAsScales",
     Compressed(R"("strategy": "group", "group_size": 32)", "mxfp8-quantized"),
     {{"a.weight", "a.weight_scale", {3, 70}, {3, 3}, 1, 32, Dtype::kU8},
      {"b.weight", "b.weight_scale", {3, 32}, {3, 1}, 1, 32, Dtype::kF8E8M0}}},
    {"FusedExperts",
     Fp8(R"(, "weight_block_size": [4, 8])"),
     {{"mlp.experts.gate_up_proj",
       "mlp.experts.gate_up_proj_scale_inv",
       {5, 10, 12},
       {5, 3, 2},
       4,
       8},
      {"mlp.experts.down_proj",
       "mlp.experts.down_proj_scale_inv",
       {5, 6, 9},
       {5, 2, 2},
       4,
       8,
       Dtype::kBF16}}},
    {"FusedExpertsWithAScaleEach",
     Fp8(R"(, "weight_block_size": null)"),
     {{"mlp.experts.gate_up_proj",
       "mlp.experts.gate_up_proj_scale_inv",
       {5, 10, 12},
       {5, 1, 1},
       kAll,
       kAll},
      {"mlp.experts.down_proj", "mlp.experts.down_proj_scale_inv", {5, 6, 9}, {5}, kAll, kAll}}},
    {"OneScaleATensorWithoutBlockSize",
     Fp8(""),
     {{"a.weight", "a.weight_scale_inv", {33, 20}, {}, kAll, kAll},
      {"b.weight", "b.weight_scale", {33, 20}, {1}, kAll, kAll}}},
    {"E5M2",
     Fp8(R"(, "fmt": "e5m2", "weight_block_size": [16, 16])"),
     {{"a.weight", "a.weight_scale_inv", {40, 70}, {3, 5}, 16, 16, Dtype::kF32, Dtype::kF8E5M2},
      {"b.weight",
       "b.weight_scale_inv",
       {16, 16},
       {1, 1},
       16,
       16,
       Dtype::kF8E8M0,
       Dtype::kF8E5M2}}},
};

TinyTensor Expected(const TinyCheckpoint& checkpoint, const Pair& pair) {
  TinyTensor weight;
  TinyTensor scale;
  for (const TinyTensor& tensor : checkpoint.tensors) {
    if (tensor.name == pair.weight) weight = tensor;
    if (tensor.name == pair.scale) scale = tensor;
  }
  const std::uint64_t cols = pair.shape.back();
  const std::uint64_t rows = pair.shape[pair.shape.size() - 2];
  const std::uint64_t scale_rows = (rows + pair.block_rows - 1) / pair.block_rows;
  const std::uint64_t scale_cols = (cols + pair.block_cols - 1) / pair.block_cols;
  TinyTensor result{weight.shard, weight.name, Dtype::kBF16, weight.shape, ""};
  for (std::uint64_t i = 0; i < weight.bytes.size(); ++i) {
    const std::uint64_t row = i / cols % rows;
    const std::uint64_t block =
        (i / cols / rows * scale_rows + row / pair.block_rows) * scale_cols +
        i % cols / pair.block_cols;
    const std::uint16_t value = ExpectedBf16(static_cast<std::uint8_t>(weight.bytes[i]),
                                             ScaleValue(scale, block), pair.dtype);
    result.bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  return result;
}

class ScaleFormTest : public ::testing::TestWithParam<Form> {
 protected:
  // Weights in the first shard; scales in the first and the second by turns.
  TinyCheckpoint Checkpoint() const {
    TinyCheckpoint checkpoint;
    checkpoint.config = GetParam().config;
    bool beside = true;
    for (const Pair& pair : GetParam().pairs) {
      checkpoint.Add(kTinyShard1, pair.weight, pair.dtype, pair.shape);
      checkpoint.AddScale(beside ? kTinyShard1 : kTinyShard2, pair.scale, pair.scale_dtype,
                          pair.scale_shape);
      beside = !beside;
    }
    checkpoint.Add(kTinyShard2, "layers.0.hc_attn_scale", Dtype::kF32, {4, 4});
    checkpoint.Add(kTinyShard2, "layers.0.norm.scale", Dtype::kF32, {4});
    checkpoint.Add(kTinyShard2, "layers.0.self_attn.k_scale", Dtype::kF32, {1});
    return checkpoint;
  }

  TempDir dir_;
};

TEST_P(ScaleFormTest, FollowsTheDefinitionAndDropsOnlyScales) {
  const TinyCheckpoint checkpoint = Checkpoint();
  checkpoint.Write(dir_ / "in");
  const convert::ConversionReport report = Conversion(dir_ / "in", dir_ / "out").Run();
  EXPECT_EQ(report.converted_tensors, GetParam().pairs.size());
  for (const formats::Finding& warning : report.warnings) {
    EXPECT_EQ(warning.kind, "unknown-model-type");
  }

  TinyCheckpoint expected;
  for (const Pair& pair : GetParam().pairs) expected.tensors.push_back(Expected(checkpoint, pair));
  for (const TinyTensor& tensor : checkpoint.tensors) {
    if (tensor.name.starts_with("layers.0.hc") || tensor.name.starts_with("layers.0.norm") ||
        tensor.name.starts_with("layers.0.self")) {
      expected.tensors.push_back(tensor);
    }
  }
  for (const char* const shard : {kTinyShard1, kTinyShard2}) {
    EXPECT_EQ(ReadFile(dir_ / "out" / shard), expected.ShardBytes(shard)) << shard;
  }
  EXPECT_THAT(ReadFile(dir_ / "out" / "config.json"),
              AllOf(Not(HasSubstr("quant")), Not(HasSubstr("compression"))));
  EXPECT_THAT(ReadFile(dir_ / "out" / "model.safetensors.index.json"),
              Not(HasSubstr("weight_scale")));
}

TEST_P(ScaleFormTest, RefusesABadScaleWithItsPlace) {
  TinyCheckpoint checkpoint = Checkpoint();
  const Pair& pair = GetParam().pairs.back();
  TinyTensor& scale = checkpoint.Find(pair.scale);
  const std::size_t element_bytes = formats::DtypeBits(scale.dtype) / 8;
  // All bits set are a NaN in every format.
  for (std::size_t i = 1; i <= element_bytes; ++i) scale.bytes[scale.bytes.size() - i] = '\xFF';
  checkpoint.Write(dir_ / "in");
  const Error error = ErrorOf([&] { Conversion(dir_ / "in", dir_ / "out").Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  Shape place = pair.scale_shape;
  for (std::uint64_t& at : place) --at;
  EXPECT_THAT(error.message(), AllOf(HasSubstr(fmt::format("'{}'", pair.scale)),
                                     HasSubstr("nan at " + formats::ShapeToString(place) + ",")));
  EXPECT_FALSE(std::filesystem::exists(dir_ / "out" / kTinyShard1));
}

TEST_P(ScaleFormTest, RefusesAScaleOfAnotherShape) {
  TinyCheckpoint checkpoint = Checkpoint();
  const Pair& pair = GetParam().pairs.front();
  const std::string shard = checkpoint.Find(pair.scale).shard;
  std::erase_if(checkpoint.tensors, [&](const TinyTensor& t) { return t.name == pair.scale; });
  checkpoint.AddScale(shard, pair.scale, pair.scale_dtype, {11, 3});
  checkpoint.Write(dir_ / "in");
  const Error error = ErrorOf([&] { Conversion(dir_ / "in", dir_ / "out").Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("config.json"));
}

TEST_P(ScaleFormTest, RefusesAWeightWithoutScaleByTheNameInUse) {
  TinyCheckpoint checkpoint = Checkpoint();
  const Pair& pair = GetParam().pairs.back();
  if (GetParam().pairs.size() == 1) return;  // no other pair tells the names in use
  std::erase_if(checkpoint.tensors, [&](const TinyTensor& t) { return t.name == pair.scale; });
  checkpoint.Write(dir_ / "in");
  const Error error = ErrorOf([&] { Conversion(dir_ / "in", dir_ / "out").Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  const std::string& other = GetParam().pairs.front().scale;
  const std::string suffix =
      other.substr(other.find_last_of(other.ends_with(".scale") ? '.' : '_'));
  EXPECT_THAT(error.message(),
              AllOf(HasSubstr(fmt::format("'{}'", pair.weight)), HasSubstr("no scale"),
                    HasSubstr(suffix + "' is in no shard")));
}

INSTANTIATE_TEST_SUITE_P(Forms, ScaleFormTest, ::testing::ValuesIn(kForms),
                         [](const auto& test) { return std::string(test.param.name); });

class ScaleRefusalTest : public BadInputTest {
 protected:
  ScaleRefusalTest() {
    checkpoint_ = {};
    checkpoint_.config = Fp8(R"(, "weight_block_size": [4, 8])");
    checkpoint_.Add(kTinyShard1, "a.weight", Dtype::kF8E4M3, {4, 8});
    checkpoint_.AddScale(kTinyShard1, "a.weight_scale_inv", Dtype::kF32, {1, 1});
  }
};

TEST_F(ScaleRefusalTest, RefusesTwoScalesForOneWeight) {
  checkpoint_.AddScale(kTinyShard1, "a.weight_scale", Dtype::kF32, {1, 1});
  WriteInput();
  ExpectBadInput("'a.weight'", "two scales", "'a.weight_scale_inv'", "'a.weight_scale'");
}

TEST_F(ScaleRefusalTest, RefusesPackedFp4ExpertsOfV4) {
  checkpoint_.Add(kTinyShard1, "ffn.experts.0.w1.weight", Dtype::kI8, {4, 32});
  checkpoint_.AddScale(kTinyShard1, "ffn.experts.0.w1.scale", Dtype::kF8E8M0, {4, 2});
  checkpoint_.Add(kTinyShard2, "ffn.experts.1.w1.weight", Dtype::kI8, {4, 32});
  checkpoint_.AddScale(kTinyShard2, "ffn.experts.1.w1.scale", Dtype::kF8E8M0, {4, 2});
  WriteInput();
  ExpectBadInput(kTinyShard1, "'ffn.experts.0.w1.weight'", "packed FP4", "1 more such tensor");
}

TEST_F(ScaleRefusalTest, RefusesInt8Weights) {
  checkpoint_.Add(kTinyShard1, "b.weight", Dtype::kI8, {4, 32});
  checkpoint_.AddScale(kTinyShard1, "b.weight_scale", Dtype::kF32, {4, 1});
  WriteInput();
  ExpectBadInput("'b.weight'", "INT8");
}

TEST_F(ScaleRefusalTest, RefusesPackedInt4) {
  checkpoint_.tensors.clear();
  checkpoint_.config =
      R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
          "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}}})";
  checkpoint_.Add(kTinyShard1, "e.weight_packed", Dtype::kI32, {4, 8});
  checkpoint_.Add(kTinyShard1, "e.weight_scale", Dtype::kBF16, {4, 2});
  checkpoint_.Add(kTinyShard1, "e.weight_shape", Dtype::kI64, {2});
  WriteInput();
  ExpectBadInput("'e.weight_packed'", "packed INT4", "pack-quantized");
}

TEST_F(ScaleRefusalTest, RefusesNvFp4) {
  checkpoint_.tensors.clear();
  checkpoint_.Add(kTinyShard1, "e.weight", Dtype::kU8, {4, 16});
  checkpoint_.Add(kTinyShard1, "e.weight_scale", Dtype::kF8E4M3, {4, 2});
  checkpoint_.Add(kTinyShard1, "e.weight_scale_2", Dtype::kF32, {});
  WriteInput();
  ExpectBadInput("'e.weight'", "NVFP4");
}

TEST_F(ScaleRefusalTest, RefusesAwqAndGptq) {
  checkpoint_.tensors.clear();
  checkpoint_.Add(kTinyShard1, "e.qweight", Dtype::kI32, {4, 2});
  checkpoint_.Add(kTinyShard1, "e.scales", Dtype::kF16, {4, 2});
  WriteInput();
  ExpectBadInput("'e.qweight'", "AWQ");
  checkpoint_.Add(kTinyShard1, "e.g_idx", Dtype::kI32, {4});
  WriteInput();
  ExpectBadInput("'e.qweight'", "GPTQ");
}

TEST_F(ScaleRefusalTest, RefusesBytesAsScalesThatTheConfigDoesNotExplain) {
  checkpoint_.tensors.pop_back();
  checkpoint_.AddScale(kTinyShard1, "a.weight_scale_inv", Dtype::kU8, {1, 1});
  WriteInput();
  ExpectBadInput("'a.weight_scale_inv' is U8", "mxfp8-quantized");
}

TEST_F(ScaleRefusalTest, RefusesGroupsOfWhichTwoFit) {
  checkpoint_.tensors.clear();
  checkpoint_.config =
      R"({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {
          "a": {"weights": {"type": "float", "strategy": "group", "group_size": 5}},
          "b": {"weights": {"type": "float", "strategy": "group", "group_size": 6}}}}})";
  checkpoint_.Add(kTinyShard1, "a.weight", Dtype::kF8E4M3, {4, 9});
  checkpoint_.AddScale(kTinyShard1, "a.weight_scale", Dtype::kF32, {4, 2});
  WriteInput();
  ExpectBadInput("'a.weight_scale'", "group_size 5", "group_size 6", "cannot be told");
}

TEST_F(ScaleRefusalTest, TakesTheGroupThatFits) {
  checkpoint_.tensors.clear();
  checkpoint_.config =
      R"({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {
          "a": {"weights": {"type": "float", "strategy": "channel"}},
          "b": {"weights": {"type": "float", "strategy": "block", "block_structure": [2, 2]}},
          "c": {"weights": {"type": "int", "num_bits": 4, "strategy": "group"}}}}})";
  checkpoint_.Add(kTinyShard1, "a.weight", Dtype::kF8E4M3, {4, 6});
  checkpoint_.AddScale(kTinyShard1, "a.weight_scale", Dtype::kF32, {4, 1});
  checkpoint_.Add(kTinyShard1, "b.weight", Dtype::kF8E4M3, {4, 6});
  checkpoint_.AddScale(kTinyShard1, "b.weight_scale", Dtype::kF32, {2, 3});
  WriteInput();
  EXPECT_EQ(Convert().converted_tensors, 2u);
}

TEST_F(ScaleRefusalTest, RefusesAGroupWithoutItsBlock) {
  checkpoint_.config = Compressed(R"("strategy": "block")");
  WriteInput();
  ExpectBadInput("config.json", "compressed-tensors", "no group of 8-bit float weights");
}

TEST_F(ScaleRefusalTest, CountsFurtherFaults) {
  checkpoint_.Add(kTinyShard1, "b.weight", Dtype::kF8E4M3, {4, 8});
  checkpoint_.Add(kTinyShard1, "c.weight", Dtype::kF8E4M3, {4, 8});
  checkpoint_.AddScale(kTinyShard2, "d.weight_scale_inv", Dtype::kF32, {1, 1});
  WriteInput();
  ExpectBadInput("'b.weight'", "no scale", "(2 more faults of weights and scales)");
}

class ScaleFmtWarningTest : public ScaleRefusalTest {
 protected:
  void SetScale(const std::string& name, float value) {
    checkpoint_.AddScale(kTinyShard1, name, Dtype::kF32, {1, 1}).bytes = BytesOf(value);
    checkpoint_.Add(kTinyShard1, name.substr(0, name.size() - 10), Dtype::kF8E4M3, {4, 8});
  }
  std::string Warning() {
    WriteInput();
    const convert::ConversionReport report = Convert();
    for (const formats::Finding& warning : report.warnings) {
      if (warning.kind == "scale-fmt-contradiction") return warning.message;
    }
    return "";
  }
};

TEST_F(ScaleFmtWarningTest, SaysNothingWhereTheClaimHolds) {
  checkpoint_.config = Fp8(R"(, "scale_fmt": "ue8m0", "weight_block_size": [4, 8])");
  checkpoint_.Find("a.weight_scale_inv").bytes = BytesOf(0.25F);
  EXPECT_EQ(Warning(), "");
}

TEST_F(ScaleFmtWarningTest, NamesV31sExceptionApart) {
  checkpoint_.config = Fp8(R"(, "scale_fmt": "ue8m0", "weight_block_size": [4, 8])");
  checkpoint_.Find("a.weight_scale_inv").bytes = BytesOf(0.25F);
  SetScale("l.0.self_attn.o_proj.weight_scale_inv", 1.3228757F / 1024);
  EXPECT_THAT(Warning(), AllOf(HasSubstr("scale_fmt is \"ue8m0\""), HasSubstr("1.32288"),
                               HasSubstr("V3.1"), HasSubstr("1 scale tensor,")));
}

TEST_F(ScaleFmtWarningTest, CountsTheScalesThatContradict) {
  checkpoint_.config = Fp8(R"(, "scale_fmt": "ue8m0", "weight_block_size": [4, 8])");
  checkpoint_.Find("a.weight_scale_inv").bytes = BytesOf(0.3F);
  SetScale("b.weight_scale_inv", 0.5F);
  SetScale("c.weight_scale_inv", 0.7F);
  EXPECT_THAT(Warning(), AllOf(HasSubstr("scale_fmt"), HasSubstr("2 scale tensors"),
                               HasSubstr("'a.weight_scale_inv' (2 scales)")));
}

TEST_F(ScaleFmtWarningTest, WarnsOfPowersOfTwoThatTheConfigDoesNotTell) {
  checkpoint_.Find("a.weight_scale_inv").bytes = BytesOf(0.25F);
  SetScale("b.weight_scale_inv", 1.0F);
  EXPECT_THAT(Warning(), AllOf(HasSubstr("there is no scale_fmt"), HasSubstr("powers of two")));
  request_.run.overwrite = true;
  checkpoint_.config = Fp8(R"(, "scale_fmt": "float", "weight_block_size": [4, 8])");
  EXPECT_THAT(Warning(), HasSubstr("scale_fmt is 'float'"));
}

TEST_F(ScaleFmtWarningTest, SaysNothingOfScalesThatAreAllOne) {
  checkpoint_.Find("a.weight_scale_inv").bytes = BytesOf(1.0F);
  EXPECT_EQ(Warning(), "");
}

}  // namespace
}  // namespace dsv3::testing
