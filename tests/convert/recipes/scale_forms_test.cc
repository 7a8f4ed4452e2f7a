#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/recipes/expected_bf16.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/scale_config.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// fp8-to-bf16 of every form in which the family stores scales.
namespace dsv3::testing {
namespace {

using formats::Dtype;
using formats::Shape;
using ::testing::AllOf;
using ::testing::HasSubstr;

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

constexpr std::uint64_t kAll = 1'000'000;

const Form kForms[] = {
    {"DeepSeekBlocks",
     Fp8Config(R"(, "weight_block_size": [128, 128])"),
     {{"a.weight", "a.weight_scale_inv", {130, 300}, {2, 3}, 128, 128},
      {"b.weight", "b.weight_scale_inv", {576, 16}, {5, 1}, 128, 128, Dtype::kBF16}}},
    {"Ue8m0InF32AndE8m0Tensors",
     Fp8Config(R"(, "weight_block_size": [32, 32])"),
     {{"a.weight", "a.weight_scale_inv", {70, 33}, {3, 2}, 32, 32, Dtype::kF8E8M0},
      {"b.weight", "b.weight_scale_inv", {7, 64}, {1, 2}, 32, 32}}},
    {"V4Names",
     Fp8Config(R"(, "scale_fmt": "ue8m0", "weight_block_size": [128, 128])"),
     {{"layers.0.attn.wq_a.weight",
       "layers.0.attn.wq_a.scale",
       {200, 130},
       {2, 2},
       128,
       128,
       Dtype::kF8E8M0},
      {"mtp.0.ffn.w1.weight", "mtp.0.ffn.w1.scale", {3, 5}, {1, 1}, 128, 128, Dtype::kF8E8M0}}},
    {"RowTiles",
     Fp8Config(R"(, "weight_block_size": [1, 128])"),
     {{"a.weight", "a.weight_scale_inv", {9, 300}, {9, 3}, 1, 128}}},
    {"CompressedBlocks",
     CompressedConfig(R"("strategy": "block", "block_structure": [16, 8])"),
     {{"a.weight", "a.weight_scale", {33, 20}, {3, 3}, 16, 8, Dtype::kBF16}}},
    {"CompressedBlocksAsText",
     CompressedConfig(R"("strategy": "block", "block_structure": "16x8")"),
     {{"a.weight", "a.weight_scale", {33, 20}, {3, 3}, 16, 8}}},
    {"CompressedChannels",
     CompressedConfig(R"("strategy": "channel")"),
     {{"a.weight", "a.weight_scale", {33, 20}, {33, 1}, 1, kAll},
      {"b.weight", "b.weight_scale", {5, 700}, {5}, 1, kAll, Dtype::kBF16}}},
    {"FbgemmRows",
     R"({"quantization_config": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}})",
     {{"a.weight", "a.weight_scale", {33, 20}, {33, 1}, 1, kAll}}},
    {"CompressedChannelsInF16",
     CompressedConfig(R"("strategy": "channel")"),
     {{"a.weight", "a.weight_scale", {33, 20}, {33, 1}, 1, kAll, Dtype::kF16}}},
    {"CompressedTensors",
     CompressedConfig(R"("strategy": "tensor")"),
     {{"a.weight", "a.weight_scale", {33, 20}, {1}, kAll, kAll},
      {"b.weight", "b.weight_scale", {5, 7}, {}, kAll, kAll, Dtype::kBF16}}},
    {"CompressedGroups",
     CompressedConfig(R"("strategy": "group", "group_size": 16)"),
     {{"a.weight", "a.weight_scale", {3, 40}, {3, 3}, 1, 16}}},
    {"CompressedWithoutStrategy",
     CompressedConfig(R"("group_size": null)"),
     {{"a.weight", "a.weight_scale", {3, 40}, {1}, kAll, kAll}}},
    {"CompressedWholeRowsAsGroups",
     CompressedConfig(R"("group_size": -1)"),
     {{"a.weight", "a.weight_scale", {3, 40}, {3, 1}, 1, kAll}}},
    {"OlderCompressionConfig",
     CompressedConfig(R"("strategy": "channel")", "float-quantized", "compression_config"),
     {{"a.weight", "a.weight_scale", {3, 40}, {3, 1}, 1, kAll}}},
    {"MxFp8WithBytesAsScales",
     CompressedConfig(R"("strategy": "group", "group_size": 32)", "mxfp8-quantized"),
     {{"a.weight", "a.weight_scale", {3, 70}, {3, 3}, 1, 32, Dtype::kU8},
      {"b.weight", "b.weight_scale", {3, 32}, {3, 1}, 1, 32, Dtype::kF8E8M0}}},
    {"FusedExperts",
     Fp8Config(R"(, "weight_block_size": [4, 8])"),
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
     Fp8Config(R"(, "weight_block_size": null)"),
     {{"mlp.experts.gate_up_proj",
       "mlp.experts.gate_up_proj_scale_inv",
       {5, 10, 12},
       {5, 1, 1},
       kAll,
       kAll},
      {"mlp.experts.down_proj", "mlp.experts.down_proj_scale_inv", {5, 6, 9}, {5}, kAll, kAll}}},
    {"OneScaleATensorWithoutBlockSize",
     Fp8Config(""),
     {{"a.weight", "a.weight_scale_inv", {33, 20}, {}, kAll, kAll},
      {"b.weight", "b.weight_scale", {33, 20}, {1}, kAll, kAll}}},
    {"E5M2",
     Fp8Config(R"(, "fmt": "e5m2", "weight_block_size": [16, 16])"),
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
  checkpoint.Drop(pair.scale);
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
  checkpoint.Drop(pair.scale);
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

}  // namespace
}  // namespace dsv3::testing
