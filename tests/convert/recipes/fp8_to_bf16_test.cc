#include "convert/recipes/fp8_to_bf16.h"

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <ostream>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/runner.h"
#include "convert/model/config_edit.h"
#include "convert/recipes/dequantize.h"
#include "convert/stream/executor.h"
#include "tests/convert/recipes/expected_bf16.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using ::testing::ElementsAre;
using testing::ExpectedBf16;
using testing::kTinyShard1;
using testing::kTinyShard2;
using ::testing::Pair;
using testing::ReadFile;
using testing::TinyCheckpoint;
using testing::TinyTensor;

class Fp8ToBf16Test : public ::testing::Test {
 protected:
  void SetBlock(std::uint64_t rows, std::uint64_t cols) {
    block_rows_ = rows;
    block_cols_ = cols;
    checkpoint_.config = fmt::format(
        R"({{"quantization_config": {{"quant_method": "fp8", "weight_block_size": [{}, {}]}}}})",
        rows, cols);
  }

  // Converts and expects every shard to be what the definition gives, byte for byte.
  ConversionReport ExpectMeaning() {
    const std::filesystem::path in = dir_ / fmt::format("in{}", ++runs_);
    const std::filesystem::path out = dir_ / fmt::format("out{}", runs_);
    checkpoint_.Write(in);
    request_.input = in;
    request_.output = out;
    testing::QuickFileSystem file_system;
    ProgressSink progress;
    const StopToken stop;
    ConversionReport report =
        RunConversion(Fp8ToBf16Conversion(options_), request_, file_system, progress, stop);
    const TinyCheckpoint expected = ExpectedBf16(checkpoint_, block_rows_, block_cols_);
    for (const TinyTensor& tensor : expected.tensors) {
      EXPECT_EQ(ReadFile(out / tensor.shard), expected.ShardBytes(tensor.shard)) << tensor.name;
    }
    return report;
  }

  testing::TempDir dir_;
  TinyCheckpoint checkpoint_;
  JobRequest request_;
  DequantizeOptions options_;
  std::uint64_t block_rows_ = 0;
  std::uint64_t block_cols_ = 0;
  int runs_ = 0;
};

TEST_F(Fp8ToBf16Test, FollowsTheDefinitionForAnyBlockAndRaggedShapes) {
  const formats::Shape shapes[] = {{1, 1}, {128, 128}, {129, 127}, {7, 300}, {300, 7}, {576, 64}};
  const std::pair<std::uint64_t, std::uint64_t> blocks[] = {{128, 128}, {1, 1},  {1, 128},
                                                            {3, 5},     {64, 2}, {1000, 1000}};
  for (const auto& [rows, cols] : blocks) {
    SCOPED_TRACE(fmt::format("block [{}, {}]", rows, cols));
    checkpoint_.tensors.clear();
    SetBlock(rows, cols);
    for (const formats::Shape& shape : shapes) {
      for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF8E8M0}) {
        const std::string name =
            formats::ShapeToString(shape) + std::string(formats::DtypeName(dtype));
        checkpoint_.Add(kTinyShard1, name, Dtype::kF8E4M3, shape);
        checkpoint_.AddScale(kTinyShard2, name + "_scale_inv", dtype,
                             {(shape[0] + rows - 1) / rows, (shape[1] + cols - 1) / cols});
      }
    }
    ExpectMeaning();
  }
}

TEST_F(Fp8ToBf16Test, GivesEveryCodeItsValue) {
  SetBlock(1, 256);
  TinyTensor& weight = checkpoint_.Add(kTinyShard1, "w", Dtype::kF8E4M3, {3, 256});
  for (std::size_t i = 0; i < weight.bytes.size(); ++i) weight.bytes[i] = static_cast<char>(i);
  const float scales[] = {1.0F, 1.0e-40F, 1.0e38F};  // exact, subnormal, overflowing
  TinyTensor& scale = checkpoint_.AddScale(kTinyShard1, "w_scale_inv", Dtype::kF32, {3, 1});
  std::memcpy(scale.bytes.data(), scales, sizeof(scales));
  const ConversionReport report = ExpectMeaning();
  ASSERT_EQ(report.nan_codes.size(), 1u);
  EXPECT_EQ(report.nan_codes[0].tensor, "w");
  EXPECT_EQ(report.nan_codes[0].count, 6u);

  // The corners again, as numbers that everyone can check.
  const std::string out = ReadFile(request_.output / kTinyShard1);
  const std::string values = out.substr(out.size() - 3 * 256 * 2, 512);
  const auto value = [&](std::size_t code) {
    return static_cast<unsigned char>(values[2 * code]) +
           256 * static_cast<unsigned char>(values[2 * code + 1]);
  };
  EXPECT_EQ(value(0x00), 0x0000);
  EXPECT_EQ(value(0x80), 0x8000);  // −0
  EXPECT_EQ(value(0x38), 0x3F80);  // 1
  EXPECT_EQ(value(0xB8), 0xBF80);  // −1
  EXPECT_EQ(value(0x7E), 0x43E0);  // 448
  EXPECT_EQ(value(0x01), 0x3B00);  // 2^-9
  EXPECT_EQ(value(0x7F), 0x7FC0);  // NaN
  EXPECT_EQ(value(0xFF), 0xFFC0);  // −NaN
}

TEST_F(Fp8ToBf16Test, NamesWeightsThatAreAllZero) {
  SetBlock(128, 128);
  const auto add = [&](const std::string& name, Dtype dtype, const formats::Shape& shape) {
    TinyTensor& tensor = checkpoint_.Add(kTinyShard1, name, dtype, shape);
    tensor.bytes.assign(tensor.bytes.size(), '\0');
    return &tensor.bytes;
  };
  const auto add_fp8 = [&](const std::string& name) {
    checkpoint_.AddScale(kTinyShard1, name + "_scale_inv", Dtype::kF32, {1, 1});
    return add(name, Dtype::kF8E4M3, {4, 4});
  };
  add_fp8("a.weight");
  add_fp8("b.weight")->back() = '\x80';  // −0
  add_fp8("c.weight")->back() = '\1';
  add("d.weight", Dtype::kBF16, {300, 7000});
  *(add("e.weight", Dtype::kBF16, {300, 7000})->rbegin() + 1) = '\1';  // subnormal
  add("f.weight", Dtype::kBF16, {8});                                  // a vector
  add("g.bias", Dtype::kF32, {8, 8});
  EXPECT_THAT(ExpectMeaning().all_zero, ElementsAre("a.weight", "b.weight", "d.weight"));
}

TEST_F(Fp8ToBf16Test, CountsZerosWithinWeights) {
  SetBlock(4, 8);
  const auto add = [&](const std::string& name, Dtype dtype, const formats::Shape& shape) {
    std::string& bytes = checkpoint_.Add(kTinyShard1, name, dtype, shape).bytes;
    for (char& byte : bytes) byte = static_cast<char>(byte | 1);
    return &bytes;
  };
  const auto add_fp8 = [&](const std::string& name) {
    std::string& scales =
        checkpoint_.AddScale(kTinyShard1, name + "_scale_inv", Dtype::kF32, {250, 125}).bytes;
    const float scale = 1.5e-3F;
    for (std::size_t i = 0; i < scales.size(); i += 4) std::memcpy(&scales[i], &scale, 4);
    return add(name, Dtype::kF8E4M3, {1000, 1000});
  };
  // Rows 400 to 699 without their last code: 75 × 124 whole blocks.
  std::string* codes = add_fp8("a.weight");
  for (std::size_t row = 400; row < 700; ++row) codes->replace(row * 1000, 999, 999, '\0');
  // No block is zero as a whole.
  add_fp8("b.weight")->replace(123'456, 3000, 3000, '\0');
  add_fp8("c.weight");
  add("d.weight", Dtype::kBF16, {1000, 3000})->replace(100'000, 4097, 4097, '\0');
  add("e.weight", Dtype::kBF16, {1000, 3000})->replace(6'000, 6'000, 6'000, '\0');  // one row
  request_.run.threads = 3;
  request_.run.memory_bytes = kMinMemoryBytes;
  const ConversionReport report = ExpectMeaning();
  EXPECT_THAT(report.all_zero, ::testing::IsEmpty());
  ASSERT_EQ(report.zero_blocks.size(), 1U);
  EXPECT_EQ(report.zero_blocks[0].tensor, "a.weight");
  EXPECT_EQ(report.zero_blocks[0].count, 75U * 124U);
  ASSERT_EQ(report.zero_runs.size(), 2U);
  EXPECT_EQ(report.zero_runs[0].tensor, "b.weight");
  EXPECT_EQ(report.zero_runs[1].tensor, "d.weight");
  EXPECT_EQ(report.zero_runs[1].count, 1U);
}

TEST_F(Fp8ToBf16Test, CountsNanCodesByTensor) {
  SetBlock(128, 128);
  for (const std::string name : {"a", "b", "c"}) {
    TinyTensor& weight = checkpoint_.Add(kTinyShard1, name, Dtype::kF8E4M3, {4, 4});
    weight.bytes.assign(16, '\x38');
    checkpoint_.AddScale(kTinyShard1, name + "_scale_inv", Dtype::kF32, {1, 1});
  }
  checkpoint_.Find("a").bytes[3] = '\x7F';
  checkpoint_.Find("c").bytes[0] = '\xFF';
  checkpoint_.Find("c").bytes[15] = '\x7F';
  const ConversionReport report = ExpectMeaning();
  ASSERT_EQ(report.nan_codes.size(), 2u);
  EXPECT_EQ(report.nan_codes[0].tensor, "a");
  EXPECT_EQ(report.nan_codes[0].count, 1u);
  EXPECT_EQ(report.nan_codes[1].tensor, "c");
  EXPECT_EQ(report.nan_codes[1].count, 2u);
}

TEST_F(Fp8ToBf16Test, FollowsTheDefinitionForBadScalesThatAreAllowed) {
  SetBlock(1, 256);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const float scales[] = {kNan, -kNan, kInfinity, -kInfinity, -0.75F, 0.0F, -0.0F, 1.0F};
  TinyTensor& weight = checkpoint_.Add(kTinyShard1, "w", Dtype::kF8E4M3, {8, 256});
  for (std::size_t i = 0; i < weight.bytes.size(); ++i) weight.bytes[i] = static_cast<char>(i);
  TinyTensor& scale = checkpoint_.AddScale(kTinyShard1, "w_scale_inv", Dtype::kF32, {8, 1});
  std::memcpy(scale.bytes.data(), scales, sizeof(scales));
  options_.allow_bad_scales = true;
  const ConversionReport report = ExpectMeaning();
  ASSERT_EQ(report.bad_scales.size(), 1u);
  EXPECT_EQ(report.bad_scales[0].tensor, "w_scale_inv");
  EXPECT_EQ(report.bad_scales[0].count, 7u);
}

TEST_F(Fp8ToBf16Test, TakesEmptyWeights) {
  SetBlock(4, 8);
  checkpoint_.Add(kTinyShard1, "no_rows", Dtype::kF8E4M3, {0, 20});
  checkpoint_.AddScale(kTinyShard1, "no_rows_scale_inv", Dtype::kF32, {0, 3});
  checkpoint_.Add(kTinyShard1, "no_columns", Dtype::kF8E4M3, {9, 0});
  checkpoint_.AddScale(kTinyShard2, "no_columns_scale_inv", Dtype::kBF16, {3, 0});
  EXPECT_EQ(ExpectMeaning().converted_tensors, 2u);
}

// More than one tile of the smallest memory, whose edges fall within rows and blocks.
TEST_F(Fp8ToBf16Test, FollowsTheDefinitionAcrossTiles) {
  SetBlock(128, 128);
  request_.run.memory_bytes = std::uint64_t{8} << 20;
  checkpoint_.Add(kTinyShard1, "small", Dtype::kF8E4M3, {3, 5});
  checkpoint_.AddScale(kTinyShard1, "small_scale_inv", Dtype::kF32, {1, 1});
  checkpoint_.Add(kTinyShard1, "wide", Dtype::kF8E4M3, {577, 3001});
  checkpoint_.AddScale(kTinyShard2, "wide_scale_inv", Dtype::kF32, {5, 24});
  ExpectMeaning();
}

struct ConfigCase {
  const char* name;
  const char* before;
  const char* after;
};

void PrintTo(const ConfigCase& param, std::ostream* out) { *out << param.name; }

const ConfigCase kConfigs[] = {
    {"TorchDtype",
     R"({"a": 1.50, "quantization_config": {"quant_method": "fp8"}, "torch_dtype": "float8_e4m3fn", "z": "é\u00e9"})",
     R"({"a": 1.50, "torch_dtype": "bfloat16", "z": "é\u00e9"})"},
    {"Dtype", R"({"dtype" : "float16" ,"quantization_config":{"quant_method":"fp8"}})",
     R"({"dtype" : "bfloat16"})"},
    {"DtypeIsRightAlready",
     R"({"torch_dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}})",
     R"({"torch_dtype": "bfloat16"})"},
    {"NeitherKey",
     "{\n  \"a\": [1,\n 2],\n  \"quantization_config\": {\n    \"quant_method\": \"fp8\"\n  }\n}\n",
     "{\n  \"a\": [1,\n 2],\n  \"torch_dtype\": \"bfloat16\"\n}\n"},
    {"NestedTextConfig",
     R"({"text_config": {"quantization_config": {"quant_method": "fp8"}, "dtype": "auto", "b": 1}, "vision": {"dtype": "float32", "quantization_config": 1}})",
     R"({"text_config": {"dtype": "bfloat16", "b": 1}, "vision": {"dtype": "float32", "quantization_config": 1}})"},
    {"NestedWithTopLevelQuantization",
     R"({"text_config": {"b": 1}, "quantization_config": {"quant_method": "fp8"}, "torch_dtype": null})",
     R"({"text_config": {"b": 1}, "torch_dtype": "bfloat16"})"},
};

class ConfigForBf16Test : public ::testing::TestWithParam<ConfigCase> {};

TEST_P(ConfigForBf16Test, ChangesNothingElse) {
  RemovedConfig removed;
  const std::string before = GetParam().before;
  EXPECT_EQ(ConfigForBf16(before, ParseModelConfig(before, "config.json"), removed),
            GetParam().after);
}

INSTANTIATE_TEST_SUITE_P(Configs, ConfigForBf16Test, ::testing::ValuesIn(kConfigs),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(ConfigForBf16RemovedTest, KeepsWhatItTookOut) {
  const std::string before =
      R"({"text_config": {"quantization_config": {"quant_method":  "fp8"}, "dtype": "float8"}})";
  RemovedConfig removed;
  ConfigForBf16(before, ParseModelConfig(before, "config.json"), removed);
  EXPECT_THAT(removed,
              ElementsAre(Pair("text_config/quantization_config", R"({"quant_method":  "fp8"})"),
                          Pair("text_config/dtype", "\"float8\"")));
}

}  // namespace
}  // namespace dsv3::convert
