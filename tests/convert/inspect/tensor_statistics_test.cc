#include "convert/inspect/tensor_statistics.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "formats/error.h"
#include "formats/io/input_file.h"
#include "quant/codec.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;
using ::testing::AllOf;
using ::testing::HasSubstr;

// A file of tensors that begin anywhere, and the catalog of it.
class TensorStatisticsTest : public ::testing::Test {
 protected:
  template <typename T>
  void Add(const std::string& name, Dtype dtype, const Shape& shape, const std::vector<T>& values) {
    bytes_ += '\xAA';  // so that nothing is aligned
    const std::uint64_t offset = bytes_.size();
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    tensors_.push_back({name, dtype, shape, {0, offset, values.size() * sizeof(T)}});
  }

  TensorStatistics Measure(const std::string& name, const ModelConfig* config = nullptr) {
    std::ofstream(root_ / "file", std::ios::binary) << bytes_;
    const formats::InputFile written(root_ / "file", "file");
    SourceFile file;
    file.name = "file";
    file.path = root_ / "file";
    file.bytes = written.bytes();
    file.mtime_ns = written.mtime_ns();
    OpenedModel model;
    model.catalog = Catalog({file}, tensors_);
    return MeasureTensor(model, model.catalog.Find(name), config);
  }

  template <typename T>
  ValueStatistics Stored(Dtype dtype, const std::vector<T>& values) {
    tensors_.clear();
    Add("t", dtype, {values.size()}, values);
    return Measure("t").stored.value();
  }

  dsv3::testing::TempDir directory_;
  const std::filesystem::path root_ = directory_.path();
  std::string bytes_;
  std::vector<CatalogTensor> tensors_;
};

ModelConfig BlockConfig(std::uint64_t rows, std::uint64_t cols) {
  ModelConfig config;
  config.quantization.emplace();
  config.quantization->quant_method = "fp8";
  config.quantization->weight_block_size = quant::BlockShape{rows, cols};
  return config;
}

TEST_F(TensorStatisticsTest, MeasuresFloats) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const auto s = Stored<float>(Dtype::kF32, {3, -4, 0, -0.0F, 1e-40F, kInf, -kInf, NAN});
  EXPECT_EQ(s.values, 8U);
  EXPECT_EQ(s.finite, 5U);
  EXPECT_EQ(s.zeros, 2U);
  EXPECT_EQ(s.nans, 1U);
  EXPECT_EQ(s.infinities, 2U);
  EXPECT_EQ(s.subnormals, 1U);
  EXPECT_EQ(s.min, -4);
  EXPECT_EQ(s.max, 3);
  EXPECT_EQ(s.absmax, 4);
  EXPECT_NEAR(s.mean, -0.2, 1e-12);
  EXPECT_NEAR(s.rms, std::sqrt(5.0), 1e-12);
}

TEST_F(TensorStatisticsTest, MeasuresEveryWidthOfIntegers) {
  const auto check = [](const ValueStatistics& s, double min, double max, double mean) {
    EXPECT_EQ(s.finite, 2U);
    EXPECT_EQ(s.min, min);
    EXPECT_EQ(s.max, max);
    EXPECT_EQ(s.mean, mean);
    EXPECT_EQ(s.subnormals, 0U);
  };
  check(Stored<std::int8_t>(Dtype::kI8, {-100, 50}), -100, 50, -25);
  check(Stored<std::uint8_t>(Dtype::kU8, {200, 100}), 100, 200, 150);
  check(Stored<std::int16_t>(Dtype::kI16, {-30000, 0}), -30000, 0, -15000);
  check(Stored<std::uint16_t>(Dtype::kU16, {60000, 0}), 0, 60000, 30000);
  check(Stored<std::int32_t>(Dtype::kI32, {-7, 5}), -7, 5, -1);
  check(Stored<std::uint32_t>(Dtype::kU32, {4'000'000'000U, 0}), 0, 4e9, 2e9);
  check(Stored<std::int64_t>(Dtype::kI64, {-(1LL << 50), 0}), -0x1p50, 0, -0x1p49);
  check(Stored<std::uint64_t>(Dtype::kU64, {1ULL << 63, 0}), 0, 0x1p63, 0x1p62);
  check(Stored<std::uint8_t>(Dtype::kBool, {1, 0}), 0, 1, 0.5);
  check(Stored<double>(Dtype::kF64, {1e300, -1e300}), -1e300, 1e300, 0);
}

TEST_F(TensorStatisticsTest, SurvivesSquaresBeyondDouble) {
  EXPECT_NEAR(Stored<double>(Dtype::kF64, {1e300, 1e300}).rms / 1e300, 1, 1e-12);
}

TEST_F(TensorStatisticsTest, MeasuresHalfFormats) {
  const auto bf16 = Stored<std::uint16_t>(Dtype::kBF16, {0x3F80, 0xC000, 0x0001, 0x7FC0, 0xFF80});
  EXPECT_EQ(bf16.min, -2);
  EXPECT_EQ(bf16.max, 1);
  EXPECT_EQ(bf16.subnormals, 1U);
  EXPECT_EQ(bf16.nans, 1U);
  EXPECT_EQ(bf16.infinities, 1U);
  const auto f16 = Stored<std::uint16_t>(Dtype::kF16, {0x3C00, 0x03FF, 0x7C00});
  EXPECT_EQ(f16.max, 1);
  EXPECT_EQ(f16.subnormals, 1U);
  EXPECT_EQ(f16.infinities, 1U);
}

TEST_F(TensorStatisticsTest, MeasuresByteFloats) {
  const auto e4m3 = Stored<std::uint8_t>(Dtype::kF8E4M3, {0x7E, 0xFE, 0x80, 0x01, 0x7F, 0xFF});
  EXPECT_EQ(e4m3.max, 448);
  EXPECT_EQ(e4m3.min, -448);
  EXPECT_EQ(e4m3.nans, 2U);
  EXPECT_EQ(e4m3.zeros, 1U);
  EXPECT_EQ(e4m3.subnormals, 1U);
  const auto e5m2 = Stored<std::uint8_t>(Dtype::kF8E5M2, {0x7B, 0x7C, 0x7F, 0x03});
  EXPECT_EQ(e5m2.max, 57344);
  EXPECT_EQ(e5m2.infinities, 1U);
  EXPECT_EQ(e5m2.subnormals, 1U);
  const auto e8m0 = Stored<std::uint8_t>(Dtype::kF8E8M0, {127, 0, 255});
  EXPECT_EQ(e8m0.max, 1);
  EXPECT_EQ(e8m0.min, 0x1p-127);
  EXPECT_EQ(e8m0.nans, 1U);
  const auto e4m3fnuz = Stored<std::uint8_t>(Dtype::kF8E4M3Fnuz, {0x7F, 0xFF, 0x80, 0x01, 0x08});
  EXPECT_EQ(e4m3fnuz.max, 240);
  EXPECT_EQ(e4m3fnuz.min, -240);
  EXPECT_EQ(e4m3fnuz.nans, 1U);
  EXPECT_EQ(e4m3fnuz.subnormals, 1U);
  const auto e5m2fnuz = Stored<std::uint8_t>(Dtype::kF8E5M2Fnuz, {0x7F, 0x80, 0x40});
  EXPECT_EQ(e5m2fnuz.max, 57344);
  EXPECT_EQ(e5m2fnuz.nans, 1U);
  EXPECT_EQ(e5m2fnuz.finite, 2U);
}

TEST_F(TensorStatisticsTest, UnpacksFourBitFloats) {
  Add<std::uint8_t>("t", Dtype::kF4, {4}, {0x72, 0x9F});
  const auto s = Measure("t").stored.value();
  EXPECT_EQ(s.values, 4U);
  EXPECT_EQ(s.max, 6);
  EXPECT_EQ(s.min, -6);
  EXPECT_EQ(s.mean, (6 + 1 - 0.5 - 6) / 4);
  EXPECT_EQ(s.subnormals, 1U);
}

TEST_F(TensorStatisticsTest, SaysThatSixBitFloatsAreNotDecoded) {
  Add<std::uint8_t>("t", Dtype::kF6E2M3, {4}, {1, 2, 3});
  const TensorStatistics s = Measure("t");
  EXPECT_FALSE(s.stored);
  EXPECT_THAT(s.note, HasSubstr("6-bit"));
}

TEST_F(TensorStatisticsTest, MeasuresBothPartsOfComplexNumbers) {
  const auto s = Stored<float>(Dtype::kC64, {1, 2, 3, -4});
  EXPECT_EQ(s.values, 4U);
  EXPECT_EQ(s.min, -4);
}

TEST_F(TensorStatisticsTest, AcceptsEmptyTensors) {
  Add<float>("t", Dtype::kF32, {0, 4}, {});
  const auto s = Measure("t").stored.value();
  EXPECT_EQ(s.values, 0U);
  EXPECT_EQ(s.finite, 0U);
}

TEST_F(TensorStatisticsTest, MeasuresTensorsLongerThanOnePiece) {
  std::vector<std::uint16_t> values(5'000'000, 0x3F80);
  values.back() = 0x4000;
  values.front() = 0xC000;
  const auto s = Stored(Dtype::kBF16, values);
  EXPECT_EQ(s.values, values.size());
  EXPECT_EQ(s.max, 2);
  EXPECT_EQ(s.min, -2);
}

TEST_F(TensorStatisticsTest, DequantisesRaggedBlocks) {
  // 3×5 in blocks of 2×2: scales 2×3.
  Add<std::uint8_t>("w", Dtype::kF8E4M3, {3, 5}, std::vector<std::uint8_t>(15, 0x38));
  Add<float>("w_scale_inv", Dtype::kF32, {2, 3}, {1, 2, 4, 8, 16, -32});
  const ModelConfig config = BlockConfig(2, 2);
  const TensorStatistics s = Measure("w", &config);
  EXPECT_EQ(s.note, "");
  EXPECT_EQ(s.scale, "w_scale_inv");
  EXPECT_EQ(s.stored->max, 1);
  EXPECT_EQ(s.dequantized->values, 15U);
  EXPECT_EQ(s.dequantized->max, 16);
  EXPECT_EQ(s.dequantized->min, -32);
  EXPECT_NEAR(s.dequantized->mean, (4 * 1 + 4 * 2 + 2 * 4 + 2 * 8 + 2 * 16 - 32) / 15.0, 1e-12);
}

TEST_F(TensorStatisticsTest, DequantisesTensorsLongerThanOnePiece) {
  // 2500 rows of 2048 are two pieces, the second of which begins inside a block.
  std::vector<std::uint8_t> codes(2500 * 2048, 0x38);
  std::vector<float> scales(20 * 16);
  double sum = 0;
  for (std::size_t i = 0; i < scales.size(); ++i) {
    scales[i] = static_cast<float>(i % 256);
    sum += scales[i] * (i / 16 == 19 ? 2500 - 19 * 128 : 128) * 128;
  }
  Add("w.weight", Dtype::kF8E4M3, {2500, 2048}, codes);
  Add("w.scale", Dtype::kF32, {20, 16}, scales);
  const ModelConfig config = BlockConfig(128, 128);
  const TensorStatistics s = Measure("w.weight", &config);
  EXPECT_EQ(s.scale, "w.scale");
  EXPECT_NEAR(s.dequantized->mean, sum / static_cast<double>(codes.size()), 1e-9);
}

TEST_F(TensorStatisticsTest, SaysWhyThereIsNoDequantisedView) {
  Add<std::uint8_t>("w", Dtype::kF8E4M3, {2, 2}, {1, 2, 3, 4});
  EXPECT_THAT(Measure("w").note, HasSubstr("No scale"));
  Add<float>("w_scale_inv", Dtype::kF32, {1, 1}, {1});
  EXPECT_THAT(Measure("w").note, HasSubstr("no weight_block_size"));
  const ModelConfig small = BlockConfig(1, 1);
  const TensorStatistics s = Measure("w", &small);
  EXPECT_THAT(s.note, AllOf(HasSubstr("has shape [1, 1], expected [2, 2]"),
                            HasSubstr("[1, 1] of config.json")));
  EXPECT_FALSE(s.dequantized);
  EXPECT_TRUE(s.stored);
}

TEST_F(TensorStatisticsTest, ReportsFilesThatEndBeforeTheTensor) {
  Add<float>("t", Dtype::kF32, {4}, {1, 2, 3, 4});
  tensors_[0].extent.length = 100;
  try {
    Measure("t");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kBadInput);
  }
}

}  // namespace
}  // namespace dsv3::convert
