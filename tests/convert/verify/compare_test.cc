#include "convert/verify/compare.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/stream/executor.h"
#include "quant/codec.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/convert/support/value_bytes.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kShard1[] = "model-00001-of-00002.safetensors";
constexpr char kShard2[] = "model-00002-of-00002.safetensors";

// Codes without NaNs, and scales in blocks of 4 × 8.
constexpr std::uint64_t kRows = 10;
constexpr std::uint64_t kCols = 20;

std::string Codes() {
  std::string codes = testing::RandomBytes(kRows * kCols, 5);
  for (char& code : codes) {
    if ((code & 0x7F) == 0x7F) code = 1;
  }
  return codes;
}

std::vector<float> Scales() {
  std::vector<float> scales(9);
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = 1e-3F * static_cast<float>(i + 1);
  return scales;
}

// The products in float.
std::vector<float> Values(const std::string& codes, const std::vector<float>& scales) {
  std::vector<float> values(codes.size());
  for (std::size_t i = 0; i < codes.size(); ++i) {
    values[i] = quant::DecodeE4M3(static_cast<std::uint8_t>(codes[i])) *
                scales[i / kCols / 4 * 3 + i % kCols / 8];
  }
  return values;
}

class CompareTest : public ::testing::Test {
 protected:
  CompareTest() {
    a_.config = b_.config = testing::TinyConfig();
    for (testing::TinyCheckpoint* checkpoint : {&a_, &b_}) {
      checkpoint->Add(kShard1, "norm", Dtype::kBF16, {4}).bytes =
          testing::BF16Bytes({1, -2, 0.5F, 0});
      checkpoint->Add(kShard1, "w.weight", Dtype::kF8E4M3, {kRows, kCols}).bytes = Codes();
      checkpoint->Add(kShard2, "w.weight_scale_inv", Dtype::kF32, {3, 3}).bytes =
          testing::F32Bytes(Scales());
    }
  }

  // Replaces B's FP8 weight by one without a scale.
  void Unquantize(Dtype dtype, std::string bytes) {
    testing::TinyTensor& weight = b_.Find("w.weight");
    weight.dtype = dtype;
    weight.bytes = std::move(bytes);
    b_.Drop("w.weight_scale_inv");
  }

  CompareReport Run() {
    std::filesystem::remove_all(dir_ / "a");
    std::filesystem::remove_all(dir_ / "b");
    a_.Write(dir_ / "a");
    b_.Write(dir_ / "b");
    request_.a = dir_ / "a";
    request_.b = dir_ / "b";
    return Compare();
  }

  CompareReport Compare() {
    ProgressSink progress;
    const StopToken stop;
    return CompareCheckpoints(request_, progress, stop);
  }

  static const ComparedTensor& Find(const CompareReport& report, std::string_view name) {
    const auto found = std::find_if(report.tensors.begin(), report.tensors.end(),
                                    [&](const auto& t) { return t.name == name; });
    EXPECT_NE(found, report.tensors.end()) << name;
    return *found;
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  testing::TinyCheckpoint a_;
  testing::TinyCheckpoint b_;
  CompareRequest request_;
};

TEST_F(CompareTest, FindsEqualCheckpointsIdentical) {
  const CompareReport report = Run();
  EXPECT_THAT(report.verification.findings, IsEmpty());
  EXPECT_EQ(report.verification.check, "compare");
  EXPECT_EQ(report.counts.identical_bytes, 2U);  // a scale is a part of its weight
  EXPECT_EQ(report.tensors.size(), 2U);
  EXPECT_EQ(Find(report, "w.weight").scale_a, "w.weight_scale_inv");
  EXPECT_THAT(report.worst, IsEmpty());
}

TEST_F(CompareTest, DoesNotMindOtherShardsOrASingleFile) {
  for (testing::TinyTensor& tensor : b_.tensors) tensor.shard = "model.safetensors";
  b_.has_index = false;
  const CompareReport report = Run();
  EXPECT_THAT(report.verification.findings, IsEmpty());
  EXPECT_EQ(report.counts.identical_bytes, 2U);
  EXPECT_EQ(Find(report, "norm").file_b, "model.safetensors");
}

TEST_F(CompareTest, ComparesFp8WithBF16RoundedToBF16) {
  Unquantize(Dtype::kBF16, testing::BF16Bytes(Values(Codes(), Scales())));
  const CompareReport report = Run();
  for (const auto& finding : report.verification.findings) ADD_FAILURE() << finding.message;
  EXPECT_EQ(report.counts.identical_values, 1U);
  EXPECT_EQ(report.tensors.size(), 2U);
  std::swap(request_.a, request_.b);
  EXPECT_EQ(Compare().counts.identical_values, 1U);
}

TEST_F(CompareTest, ComparesFp8WithF32ByTheProducts) {
  Unquantize(Dtype::kF32, testing::F32Bytes(Values(Codes(), Scales())));
  EXPECT_EQ(Run().counts.identical_values, 1U);
}

TEST_F(CompareTest, ComparesFp8WithScalesOfOtherNamesAndValues) {
  // Half the codes' values and twice the scales.
  std::string codes = Codes();
  for (char& code : codes) {
    if ((code & 0x78) <= 8) code = static_cast<char>(0x30 | (code & 7));
  }
  a_.Find("w.weight").bytes = codes;
  for (char& code : codes) code = static_cast<char>(code - 8);
  std::vector<float> scales = Scales();
  for (float& scale : scales) scale *= 2;
  b_.Find("w.weight").bytes = codes;
  testing::TinyTensor& scale = b_.Find("w.weight_scale_inv");
  scale.name = "w.weight_scale";
  scale.bytes = testing::F32Bytes(scales);
  const CompareReport report = Run();
  for (const auto& finding : report.verification.findings) ADD_FAILURE() << finding.message;
  EXPECT_EQ(Find(report, "w.weight").comparison, Comparison::kIdenticalValues);
  EXPECT_EQ(Find(report, "w.weight").scale_b, "w.weight_scale");
  EXPECT_EQ(report.tensors.size(), 2U);
}

TEST_F(CompareTest, FindsAChangedScaleInTheWeightsValues) {
  std::vector<float> scales = Scales();
  scales[4] *= 2;  // rows 4 to 7, columns 8 to 15
  b_.Find("w.weight_scale_inv").bytes = testing::F32Bytes(scales);
  const CompareReport report = Run();
  ASSERT_EQ(report.verification.findings.size(), 1U);
  EXPECT_EQ(report.verification.findings[0].tensor, "w.weight");
  EXPECT_EQ(Find(report, "w.weight").comparison, Comparison::kDifferent);
  EXPECT_EQ(Find(report, "w.weight").statistics.first_element, 4 * kCols + 8);
}

TEST_F(CompareTest, TellsWhatDiffersAndWhereFirst) {
  b_.Find("norm").bytes = testing::BF16Bytes({1, -2.5F, 0.5F, 0.25F});
  const CompareReport report = Run();
  const DifferenceStatistics& s = Find(report, "norm").statistics;
  EXPECT_EQ(s.elements, 4U);
  EXPECT_EQ(s.differing, 2U);
  EXPECT_EQ(s.beyond_tolerance, 2U);
  EXPECT_EQ(s.max_abs, 0.5);
  EXPECT_EQ(s.max_relative, 1);
  EXPECT_DOUBLE_EQ(s.rmse, std::sqrt((0.25 + 0.0625) / 4));
  EXPECT_DOUBLE_EQ(s.relative, std::sqrt((0.25 + 0.0625) / (1 + 6.25 + 0.25 + 0.0625)));
  EXPECT_EQ(s.first_element, 1U);
  EXPECT_EQ(s.first_a, -2);
  EXPECT_EQ(s.first_b, -2.5);
  ASSERT_EQ(report.verification.findings.size(), 1U);
  const formats::Finding& finding = report.verification.findings[0];
  EXPECT_EQ(finding.kind, "different-values");
  EXPECT_EQ(finding.severity, formats::Severity::kError);
  EXPECT_THAT(finding.message,
              AllOf(HasSubstr("'norm'"), HasSubstr(kShard1), HasSubstr("2 of 4 values differ"),
                    HasSubstr("the first at [1]: -2 and -2.5")));
  EXPECT_THAT(report.worst, ElementsAre(0U));
  EXPECT_FALSE(report.verification.Passes(false));
}

TEST_F(CompareTest, PassesWithinAbsoluteAndRelativeTolerance) {
  b_.Find("norm").bytes = testing::BF16Bytes({1, -2.5F, 0.5F, 0.25F});
  const auto passes = [&](double atol, double rtol) {
    request_.atol = atol;
    request_.rtol = rtol;
    const CompareReport report = Run();
    EXPECT_EQ(report.counts.within_tolerance, report.verification.Passes(true) ? 1U : 0U);
    return report.verification.Passes(true);
  };
  EXPECT_TRUE(passes(0.5, 0));
  EXPECT_FALSE(passes(0.49, 0));
  EXPECT_FALSE(passes(0, 0.99));  // of B's 0.25
  EXPECT_TRUE(passes(0, 1));
  EXPECT_TRUE(passes(0.2, 0.2));
  EXPECT_FALSE(passes(0.19, 0.2));
}

TEST_F(CompareTest, TakesNansForEqualAndZerosOfBothSigns) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  a_.Find("norm").bytes = testing::BF16Bytes({kNan, 0.0F, 1, INFINITY});
  b_.Find("norm").bytes = testing::BF16Bytes({-kNan, -0.0F, 1, INFINITY});
  EXPECT_EQ(Find(Run(), "norm").comparison, Comparison::kIdenticalValues);
}

TEST_F(CompareTest, NoToleranceCoversNanAndInfinity) {
  a_.Find("norm").bytes = testing::BF16Bytes({NAN, 0.0F, 1, INFINITY});
  b_.Find("norm").bytes = testing::BF16Bytes({1, 0.0F, 1.5F, -INFINITY});
  request_.atol = 1e300;
  const CompareReport report = Run();
  const ComparedTensor& norm = Find(report, "norm");
  EXPECT_EQ(norm.comparison, Comparison::kDifferent);
  EXPECT_EQ(norm.statistics.nonfinite_differing, 2U);
  EXPECT_EQ(norm.statistics.beyond_tolerance, 2U);
  EXPECT_EQ(norm.statistics.max_abs, 0.5);
  EXPECT_DOUBLE_EQ(norm.statistics.rmse, std::sqrt(0.25 / 2));
}

TEST_F(CompareTest, ListsTensorsOfOneSideAndOtherShapes) {
  a_.Add(kShard1, "only.a", Dtype::kF32, {2});
  b_.Add(kShard2, "only.b", Dtype::kF32, {2});
  a_.Add(kShard1, "shape", Dtype::kU8, {2, 3});
  b_.Add(kShard1, "shape", Dtype::kU8, {3, 2});
  const CompareReport report = Run();
  std::vector<std::string> kinds;
  for (const auto& finding : report.verification.findings) {
    kinds.push_back(finding.kind + " " + finding.tensor + " " + finding.file);
    EXPECT_EQ(finding.severity, formats::Severity::kError);
  }
  EXPECT_THAT(kinds, ElementsAre(std::string("only-in-a only.a ") + kShard1,
                                 std::string("only-in-b only.b ") + kShard2,
                                 std::string("different-shape shape ") + kShard1));
  EXPECT_EQ(report.counts.only_in_a, 1U);
  EXPECT_EQ(report.counts.only_in_b, 1U);
  EXPECT_EQ(report.counts.different, 1U);
  EXPECT_EQ(report.counts.identical_bytes, 2U);
}

TEST_F(CompareTest, ListsAScaleThatTheOtherSideLacks) {
  b_.Drop("w.weight_scale_inv");
  const CompareReport report = Run();
  EXPECT_EQ(Find(report, "w.weight_scale_inv").comparison, Comparison::kOnlyInA);
  EXPECT_EQ(Find(report, "w.weight").comparison, Comparison::kDifferent);
}

TEST_F(CompareTest, ComparesWideTypesExactly) {
  const auto add = [](testing::TinyCheckpoint& to, Dtype dtype, std::int64_t x, std::int64_t y) {
    const std::int64_t values[] = {x, y};
    to.Add(kShard1, "wide", dtype, {2}).bytes =
        std::string(reinterpret_cast<const char*>(values), sizeof values);
  };
  constexpr std::int64_t kBig = std::int64_t{1} << 60;
  add(a_, Dtype::kI64, kBig, 5);
  add(b_, Dtype::kI64, kBig + 1, 5);
  CompareReport report = Run();
  EXPECT_EQ(Find(report, "wide").statistics.differing, 1U);
  EXPECT_EQ(Find(report, "wide").statistics.max_abs, 1);
  a_.Find("wide").dtype = Dtype::kF64;
  a_.Find("wide").bytes = std::string(16, '\0');
  b_.Find("wide").bytes = std::string(16, '\0');
  EXPECT_EQ(Find(Run(), "wide").comparison, Comparison::kIdenticalValues);
}

TEST_F(CompareTest, ComparesSixBitTypesByBytes) {
  a_.Add(kShard1, "six", Dtype::kF6E2M3, {4}).bytes = "abc";
  b_.Add(kShard1, "six", Dtype::kF6E2M3, {4}).bytes = "abc";
  EXPECT_EQ(Find(Run(), "six").comparison, Comparison::kIdenticalBytes);
  b_.Find("six").bytes = "abd";
  EXPECT_EQ(Find(Run(), "six").comparison, Comparison::kDifferent);
}

TEST_F(CompareTest, ReportsDoNotDependOnThreadsAndMemory) {
  const std::uint64_t rows = 900;
  const std::uint64_t cols = 1001;
  std::string codes = testing::RandomBytes(rows * cols, 9);
  for (char& code : codes) {
    if ((code & 0x7F) == 0x7F) code = 1;
  }
  a_.Add(kShard1, "large", Dtype::kF8E4M3, {rows, cols}).bytes = codes;
  a_.AddScale(kShard1, "large_scale_inv", Dtype::kF32, {225, 126});
  std::vector<float> values(rows * cols);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = 0.001F * static_cast<float>(i % 977);
  }
  b_.Add(kShard2, "large", Dtype::kF32, {rows, cols}).bytes = testing::F32Bytes(values);
  const DifferenceStatistics first = Find(Run(), "large").statistics;
  EXPECT_GT(first.differing, 800'000U);
  EXPECT_LT(first.first_element, 10U);
  for (const unsigned threads : {1U, 3U}) {
    for (const std::uint64_t memory : {std::uint64_t{1}, kMinMemoryBytes, std::uint64_t{0}}) {
      request_.threads = threads;
      request_.memory_bytes = memory;
      const CompareReport report = Compare();
      const DifferenceStatistics& s = Find(report, "large").statistics;
      EXPECT_EQ(s.differing, first.differing);
      EXPECT_EQ(s.first_element, first.first_element);
      EXPECT_EQ(std::bit_cast<std::uint64_t>(s.rmse), std::bit_cast<std::uint64_t>(first.rmse));
      EXPECT_EQ(std::bit_cast<std::uint64_t>(s.relative),
                std::bit_cast<std::uint64_t>(first.relative));
      EXPECT_EQ(s.max_abs, first.max_abs);
    }
  }
}

TEST_F(CompareTest, RefusesWhatIsNoTolerance) {
  for (const double bad :
       {-1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    request_.rtol = bad;
    const Error error = testing::ErrorOf([&] { Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.message(), HasSubstr("--rtol"));
  }
}

TEST_F(CompareTest, RefusesACheckpointThatIsNotWhole) {
  Run();
  std::filesystem::remove(dir_ / "b" / kShard2);
  const Error error = testing::ErrorOf([&] { Compare(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr(kShard2));
  request_.b = dir_ / "nowhere";
  EXPECT_EQ(testing::ErrorOf([&] { Compare(); }).code(), ErrorCode::kBadInput);
}

TEST(ComparisonNameTest, NamesAll) {
  EXPECT_EQ(ComparisonName(Comparison::kIdenticalBytes), "identical-bytes");
  EXPECT_EQ(ComparisonName(Comparison::kOnlyInB), "only-in-b");
}

}  // namespace
}  // namespace dsv3::convert
