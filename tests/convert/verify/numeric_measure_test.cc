// What `numeric` measures of each tensor.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/verify/numeric_test.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Finding;
using testing::BF16Bytes;
using testing::F32Bytes;
using ::testing::IsEmpty;
using testing::kCols;
using testing::kRows;
using testing::kScaleCols;
using testing::kShard1;
using testing::kShard2;
using testing::Normal;
using testing::NormName;
using testing::NumericTest;
using testing::UpName;
using testing::Verify;

TEST_F(NumericTest, MeasuresValuesWithTheirScales) {
  const NumericReport report = Run();
  const std::string& codes = Bytes(UpName(1));
  const std::string& scale_bytes = Bytes(UpName(1) + "_scale_inv");
  double absmax = 0;
  double squares = 0;
  for (std::size_t row = 0; row < kRows; ++row) {
    for (std::size_t col = 0; col < kCols; ++col) {
      float scale;
      std::memcpy(&scale, scale_bytes.data() + 4 * (row / 4 * kScaleCols + col / 8), 4);
      const float value =
          quant::DecodeE4M3(static_cast<std::uint8_t>(codes[row * kCols + col])) * scale;
      absmax = std::max(absmax, double{std::abs(value)});
      squares += double{value} * double{value};
    }
  }
  const auto tensor = std::find_if(report.tensors.begin(), report.tensors.end(),
                                   [](const auto& t) { return t.name == UpName(1); });
  ASSERT_NE(tensor, report.tensors.end());
  EXPECT_TRUE(tensor->scaled);
  EXPECT_TRUE(tensor->measured);
  EXPECT_EQ(tensor->file, kShard1);
  EXPECT_EQ(tensor->values, kRows * kCols);
  EXPECT_EQ(tensor->absmax, absmax);
  EXPECT_NEAR(tensor->rms, std::sqrt(squares / (kRows * kCols)), 1e-6 * tensor->rms);
  EXPECT_FALSE(tensor->histogram);
}

TEST_F(NumericTest, ReportsDoNotDependOnThreadsAndMemory) {
  // More than a panel and a piece of the smallest size.
  checkpoint_.Add(kShard2, "model.large.weight", Dtype::kF32, {700, 1000}).bytes =
      F32Bytes(Normal(700'000, 1, 77));
  testing::TinyTensor& weight =
      checkpoint_.Add(kShard1, "model.wide.weight", Dtype::kF8E4M3, {900, 1001});
  weight.bytes = checkpoint_.Find("model.large.weight").bytes.substr(0, 900 * 1001);
  for (char& code : weight.bytes) {
    if ((code & 0x7F) == 0x7F) code = 0;
  }
  checkpoint_.AddScale(kShard2, "model.wide.weight_scale_inv", Dtype::kF32, {225, 126});
  request_.histogram = "*.w*e*";
  const NumericReport first = Run();
  EXPECT_THAT(first.verification.findings, IsEmpty());
  for (const unsigned threads : {1U, 3U}) {
    for (const std::uint64_t memory : {std::uint64_t{1}, kMinMemoryBytes, std::uint64_t{0}}) {
      request_.threads = threads;
      request_.memory_bytes = memory;
      const NumericReport report = Verify(request_);
      ASSERT_EQ(report.tensors.size(), first.tensors.size());
      for (std::size_t i = 0; i < first.tensors.size(); ++i) {
        EXPECT_EQ(report.tensors[i].name, first.tensors[i].name);
        EXPECT_EQ(report.tensors[i].absmax, first.tensors[i].absmax);
        EXPECT_EQ(std::bit_cast<std::uint64_t>(report.tensors[i].rms),
                  std::bit_cast<std::uint64_t>(first.tensors[i].rms));
        ASSERT_EQ(report.tensors[i].histogram.has_value(), first.tensors[i].histogram.has_value());
        if (first.tensors[i].histogram) {
          EXPECT_EQ(report.tensors[i].histogram->bins, first.tensors[i].histogram->bins);
        }
      }
    }
  }
}

TEST_F(NumericTest, MakesHistogramsOfMagnitudesOnRequest) {
  Bytes(NormName(0)).replace(0, 16, BF16Bytes({0, -0.0F, 1, -1.5F, 2, 0.25F, -4, 1e-40F}));
  request_.histogram = "model.layers.0.n?rm.*";
  const NumericReport report = Run();
  std::size_t histograms = 0;
  for (const NumericTensor& tensor : report.tensors) {
    if (!tensor.histogram) continue;
    ++histograms;
    EXPECT_EQ(tensor.name, NormName(0));
    EXPECT_EQ(tensor.histogram->zeros, 2U);
    EXPECT_EQ(tensor.histogram->bins.at(-133), 1U);  // a subnormal
    std::uint64_t sum = tensor.histogram->zeros;
    for (const auto& [bin, count] : tensor.histogram->bins) sum += count;
    EXPECT_EQ(sum, 64U);
  }
  EXPECT_EQ(histograms, 1U);
}

TEST_F(NumericTest, MeasuresEveryDtype) {
  const auto add = [&](const std::string& name, Dtype dtype, const formats::Shape& shape,
                       std::string bytes) {
    checkpoint_.Add(kShard1, name, dtype, shape).bytes = std::move(bytes);
  };
  using namespace std::string_literals;
  add("bool", Dtype::kBool, {2}, "\x00\x01"s);
  add("f4", Dtype::kF4, {4}, "\x27\xF0"s);  // 6, 1, 0, −6
  add("f6", Dtype::kF6E2M3, {4}, "\x01\x02\x03"s);
  add("i8", Dtype::kI8, {2}, "\x80\x01"s);
  add("u16", Dtype::kU16, {2}, "\xFF\xFF\x01\x00"s);
  add("i64", Dtype::kI64, {2}, "\xFE\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01\x00\x00\x00\x00\x00\x00\x00"s);
  add("fnuz", Dtype::kF8E4M3Fnuz, {2}, "\x7F\x08"s);  // 240, 2^-7
  double doubles[] = {1e300, -2.5};
  add("f64", Dtype::kF64, {2}, std::string(reinterpret_cast<char*>(doubles), sizeof doubles));
  add("empty", Dtype::kF32, {0}, "");
  add("scalar", Dtype::kF16, {}, "\x00\x3C"s);
  const NumericReport report = Run();
  // FP8 of any kind asks for a scale.
  for (const Finding& finding : report.verification.findings) EXPECT_EQ(finding.tensor, "fnuz");
  const auto absmax = [&](std::string_view name) {
    for (const NumericTensor& tensor : report.tensors) {
      if (tensor.name == name) return tensor.measured ? tensor.absmax : -1;
    }
    return -2.0;
  };
  EXPECT_EQ(absmax("bool"), 1);
  EXPECT_EQ(absmax("f4"), 6);
  EXPECT_EQ(absmax("f6"), -1);
  EXPECT_EQ(absmax("i8"), 128);
  EXPECT_EQ(absmax("u16"), 65535);
  EXPECT_EQ(absmax("i64"), 2);
  EXPECT_EQ(absmax("fnuz"), 240);
  EXPECT_EQ(absmax("f64"), 1e300);
  EXPECT_EQ(absmax("empty"), 0);
  EXPECT_EQ(absmax("scalar"), 1);
}

}  // namespace
}  // namespace dsv3::convert
