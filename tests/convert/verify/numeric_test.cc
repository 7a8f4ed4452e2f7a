#include "convert/verify/numeric.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/execute/executor.h"
#include "convert/recipes/sample.h"
#include "convert/verify/numeric_outliers.h"
#include "formats/io/file_system.h"
#include "quant/codec.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Finding;
using formats::Severity;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kShard1[] = "model-00001-of-00002.safetensors";
constexpr char kShard2[] = "model-00002-of-00002.safetensors";
constexpr std::uint64_t kRows = 10;  // ragged: blocks are of 4 × 8
constexpr std::uint64_t kCols = 20;
constexpr std::uint64_t kScaleCols = 3;

std::string FloatBytes(const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::string BF16Bytes(const std::vector<float>& values) {
  std::string bytes;
  for (const float value : values) {
    const std::uint16_t bits = quant::EncodeBF16(value);
    bytes += static_cast<char>(bits & 0xFF);
    bytes += static_cast<char>(bits >> 8);
  }
  return bytes;
}

std::vector<float> Normal(std::size_t size, float deviation, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

std::string UpName(int layer) { return fmt::format("model.layers.{}.mlp.up_proj.weight", layer); }
std::string NormName(int layer) { return fmt::format("model.layers.{}.norm.weight", layer); }
constexpr char kMtpEmbedding[] = "model.layers.5.embed_tokens.weight";
constexpr char kMtpHead[] = "model.layers.5.shared_head.head.weight";

// Five layers and an MTP layer's copies, without fault.
testing::TinyCheckpoint Clean() {
  testing::TinyCheckpoint checkpoint;
  checkpoint.config = testing::TinyConfig();
  for (int layer = 0; layer < 5; ++layer) {
    const auto seed = static_cast<std::uint32_t>(layer);
    std::string& codes =
        checkpoint.Add(kShard1, UpName(layer), Dtype::kF8E4M3, {kRows, kCols}).bytes;
    codes.clear();
    for (const float value : Normal(kRows * kCols, 100, seed)) {
      codes += static_cast<char>(quant::EncodeE4M3(std::clamp(value, -448.0F, 448.0F)));
    }
    std::vector<float> scales = Normal(3 * kScaleCols, 1e-5F, seed + 50);
    for (float& scale : scales) scale = 1e-4F + std::abs(scale);
    checkpoint.Add(kShard2, UpName(layer) + "_scale_inv", Dtype::kF32, {3, kScaleCols}).bytes =
        FloatBytes(scales);
    checkpoint.Add(kShard1, NormName(layer), Dtype::kBF16, {64}).bytes =
        BF16Bytes(Normal(64, 1, seed + 100));
  }
  const std::string embedding = BF16Bytes(Normal(300 * 8, 0.5F, 200));
  const std::string head = BF16Bytes(Normal(300 * 8, 0.1F, 201));
  for (const char* name : {"model.embed_tokens.weight", kMtpEmbedding}) {
    checkpoint.Add(kShard2, name, Dtype::kBF16, {300, 8}).bytes = embedding;
  }
  for (const char* name : {"lm_head.weight", kMtpHead}) {
    checkpoint.Add(kShard1, name, Dtype::kBF16, {300, 8}).bytes = head;
  }
  return checkpoint;
}

NumericReport Verify(const NumericRequest& request) {
  ProgressSink progress;
  const StopToken stop;
  return VerifyNumeric(request, progress, stop);
}

class NumericTest : public ::testing::Test {
 protected:
  NumericReport Run() {
    std::filesystem::remove_all(dir_ / "in");
    checkpoint_.Write(dir_ / "in");
    request_.input = dir_ / "in";
    return Verify(request_);
  }

  // What is found when nothing but one thing is.
  Finding OnlyFinding() {
    const NumericReport report = Run();
    EXPECT_EQ(report.verification.findings.size(), 1U);
    for (std::size_t i = 1; i < report.verification.findings.size(); ++i) {
      ADD_FAILURE() << report.verification.findings[i].message;
    }
    return report.verification.findings.empty() ? Finding{} : report.verification.findings[0];
  }

  std::string& Bytes(const std::string& name) { return checkpoint_.Find(name).bytes; }
  void SetFloat(const std::string& name, std::size_t element, float value) {
    std::memcpy(Bytes(name).data() + element * sizeof value, &value, sizeof value);
  }
  void SetBF16(const std::string& name, std::size_t element, float value) {
    const std::string bytes = BF16Bytes({value});
    Bytes(name).replace(element * 2, 2, bytes);
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  testing::TinyCheckpoint checkpoint_ = Clean();
  NumericRequest request_;
};

void ExpectFinding(const Finding& finding, Severity severity, std::string_view kind,
                   const std::string& tensor, std::string_view text) {
  EXPECT_EQ(finding.severity, severity);
  EXPECT_EQ(finding.kind, kind);
  EXPECT_EQ(finding.tensor, tensor);
  EXPECT_THAT(finding.message, HasSubstr(text));
  if (!tensor.empty()) {
    EXPECT_THAT(finding.message, AllOf(HasSubstr(tensor), HasSubstr(finding.file)));
    EXPECT_FALSE(finding.file.empty());
  }
}

TEST_F(NumericTest, FindsNothingInACleanCheckpoint) {
  const NumericReport report = Run();
  for (const Finding& finding : report.verification.findings) ADD_FAILURE() << finding.message;
  EXPECT_EQ(report.verification.check, "numeric");
  EXPECT_THAT(report.verification.files, ElementsAre(kShard1, kShard2));
  EXPECT_EQ(report.tensors.size(), checkpoint_.tensors.size());
  EXPECT_TRUE(report.verification.Passes(true));
}

TEST_F(NumericTest, FindsNothingInTheSample) {
  ProgressSink progress;
  for (const std::uint64_t seed : {0U, 1U}) {
    const auto path = dir_ / ("sample" + std::to_string(seed));
    WriteSample({SamplePreset::kTiny, seed}, path, formats::PosixFileSystem(), progress);
    NumericRequest request;
    request.input = path;
    request.threads = 2;
    const NumericReport report = Verify(request);
    for (const Finding& finding : report.verification.findings) ADD_FAILURE() << finding.message;
  }
}

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

TEST_F(NumericTest, FindsNanCodes) {
  Bytes(UpName(2))[kCols + 3] = '\x7F';
  Bytes(UpName(2))[2 * kCols] = '\xFF';
  const Finding finding = OnlyFinding();
  ExpectFinding(finding, Severity::kError, "nan", UpName(2),
                "2 FP8 NaN codes (0x7F or 0xFF), the first at [1, 3]");
}

TEST_F(NumericTest, FindsNansAndInfinities) {
  SetBF16(NormName(3), 5, std::numeric_limits<float>::quiet_NaN());
  SetBF16(NormName(4), 7, -std::numeric_limits<float>::infinity());
  const NumericReport report = Run();
  ASSERT_EQ(report.verification.findings.size(), 2U);
  ExpectFinding(report.verification.findings[0], Severity::kError, "nan", NormName(3),
                "1 value is NaN, the first at [5]");
  ExpectFinding(report.verification.findings[1], Severity::kError, "infinity", NormName(4),
                "1 value is infinite, the first at [7]");
  EXPECT_FALSE(report.verification.Passes(false));
}

TEST_F(NumericTest, FindsProductsThatExceedFloat) {
  Bytes(UpName(0)) = std::string(kRows * kCols, '\x7E');
  SetFloat(UpName(0) + "_scale_inv", 4, 1e38F);
  const NumericReport report = Run();
  const auto& findings = report.verification.findings;
  ASSERT_EQ(findings.size(), 1U) << findings.back().message;
  ExpectFinding(findings[0], Severity::kError, "infinity", UpName(0),
                "32 values are infinite, the first at [4, 8]");
}

TEST_F(NumericTest, FindsBadScalesAndBlamesThemAlone) {
  const std::string scale = UpName(1) + "_scale_inv";
  const std::string clean = Bytes(scale);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(), 0.0F, -1e-4F}) {
    SCOPED_TRACE(bad);
    Bytes(scale) = clean;
    SetFloat(scale, 5, bad);
    ExpectFinding(OnlyFinding(), Severity::kError, "bad-scale", scale, "at [1, 2]");
  }
}

TEST_F(NumericTest, FindsE8M0NanCodes) {
  for (int layer = 0; layer < 5; ++layer) {
    testing::TinyTensor& scale = checkpoint_.Find(UpName(layer) + "_scale_inv");
    scale.dtype = Dtype::kF8E8M0;
    scale.bytes = std::string(9, '\x70');
  }
  Bytes(UpName(3) + "_scale_inv")[2] = '\xFF';
  ExpectFinding(OnlyFinding(), Severity::kError, "bad-scale", UpName(3) + "_scale_inv",
                "1 scale of 9 is bad, the first is the NaN code 0xFF at [0, 2]");
}

TEST_F(NumericTest, FindsWeightsWithoutScales) {
  std::erase_if(checkpoint_.tensors,
                [](const auto& tensor) { return tensor.name == UpName(2) + "_scale_inv"; });
  const Finding finding = OnlyFinding();
  EXPECT_EQ(finding.severity, Severity::kError);
  EXPECT_EQ(finding.kind, "missing-scale");
  EXPECT_EQ(finding.tensor, UpName(2));
}

TEST_F(NumericTest, FindsAllZeroAndConstantTensors) {
  Bytes(UpName(2)) = std::string(kRows * kCols - 1, '\0') + '\x80';  // −0, too
  Bytes(NormName(0)) = BF16Bytes(std::vector<float>(64, 1.5F));
  const NumericReport report = Run();
  ASSERT_EQ(report.verification.findings.size(), 2U);
  // Of a file's tensors the wider come first.
  ExpectFinding(report.verification.findings[0], Severity::kWarning, "constant", NormName(0),
                "all 64 values are 1.5");
  ExpectFinding(report.verification.findings[1], Severity::kWarning, "all-zero", UpName(2),
                "all 200 values are zero");
  EXPECT_TRUE(report.verification.Passes(false));
  EXPECT_FALSE(report.verification.Passes(true));
}

TEST_F(NumericTest, TakesConstantCodesWithDifferentScalesForDifferentValues) {
  Bytes(UpName(2)) = std::string(kRows * kCols, '\x60');
  EXPECT_THAT(Run().verification.findings, IsEmpty());
}

TEST_F(NumericTest, FindsWrongClaimsOfPowersOfTwo) {
  const std::string claim = R"("scale_fmt": "ue8m0", "weight_block_size")";
  std::string& config = checkpoint_.config;
  const std::size_t at = config.find("\"weight_block_size\"");
  ASSERT_NE(at, std::string::npos);
  config.replace(at, std::string_view("\"weight_block_size\"").size(), claim);
  ExpectFinding(OnlyFinding(), Severity::kWarning, "scale-fmt-contradiction", "", "ue8m0");
}

TEST_F(NumericTest, FindsMtpCopiesThatDiffer) {
  Bytes(kMtpEmbedding)[2 * (8 * 123 + 5) + 1] ^= 1;
  ExpectFinding(OnlyFinding(), Severity::kError, "mtp-copy-differs", kMtpEmbedding,
                "expected a copy of 'model.embed_tokens.weight', but the bytes differ from "
                "[123, 5] on");
}

TEST_F(NumericTest, FindsWhereALargeMtpCopyDiffers) {
  for (const char* name : {"model.embed_tokens.weight", kMtpEmbedding}) {
    checkpoint_.Find(name).shape = {700, 1000};
    Bytes(name) = BF16Bytes(Normal(700'000, 1, 6));
  }
  request_.threads = 3;
  request_.memory_bytes = 1;
  EXPECT_THAT(Run().verification.findings, IsEmpty());
  Bytes(kMtpEmbedding)[2 * (1000 * 432 + 17)] ^= 1;
  ExpectFinding(OnlyFinding(), Severity::kError, "mtp-copy-differs", kMtpEmbedding,
                "the bytes differ from [432, 17] on");
}

TEST_F(NumericTest, FindsAnMtpHeadOfAnotherDtypeOrShape) {
  checkpoint_.Find(kMtpHead).shape = {150, 16};
  ExpectFinding(OnlyFinding(), Severity::kError, "mtp-copy-differs", kMtpHead,
                "it is BF16 [150, 16] instead of BF16 [300, 8]");
}

TEST_F(NumericTest, ComparesAnMtpHeadWithTiedEmbeddings) {
  std::erase_if(checkpoint_.tensors, [](const auto& t) { return t.name == "lm_head.weight"; });
  ExpectFinding(OnlyFinding(), Severity::kError, "mtp-copy-differs", kMtpHead,
                "a copy of 'model.embed_tokens.weight'");
  Bytes(kMtpHead) = Bytes("model.embed_tokens.weight");
  EXPECT_THAT(Run().verification.findings, IsEmpty());
}

TEST_F(NumericTest, FindsOutliersAmongTheLayers) {
  for (const float factor : {20.0F, 0.05F}) {
    SCOPED_TRACE(factor);
    checkpoint_ = Clean();
    std::vector<float> scales(9);
    std::string& bytes = Bytes(UpName(4) + "_scale_inv");
    std::memcpy(scales.data(), bytes.data(), bytes.size());
    for (float& scale : scales) scale *= factor;
    bytes = FloatBytes(scales);
    ExpectFinding(OnlyFinding(), Severity::kWarning, "outlier", UpName(4),
                  "the median of the 5 tensors 'model.layers.*.mlp.up_proj.weight'");
  }
}

TEST_F(NumericTest, FindsATensorWithASingleWildValue) {
  SetBF16(NormName(1), 9, 1e6F);
  const Finding finding = OnlyFinding();
  ExpectFinding(finding, Severity::kWarning, "outlier", NormName(1), "RMS is 1.249e+05");
}

TEST_F(NumericTest, ReportsDoNotDependOnThreadsAndMemory) {
  // More than a panel and a piece of the smallest size.
  checkpoint_.Add(kShard2, "model.large.weight", Dtype::kF32, {700, 1000}).bytes =
      FloatBytes(Normal(700'000, 1, 77));
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

TEST_F(NumericTest, JudgesWhatIsThereWhereAShardIsMissing) {
  checkpoint_.Write(dir_ / "in");
  std::filesystem::remove(dir_ / "in" / kShard2);
  request_.input = dir_ / "in";
  const NumericReport report = Verify(request_);
  const auto& findings = report.verification.findings;
  EXPECT_TRUE(std::any_of(findings.begin(), findings.end(),
                          [](const Finding& f) { return f.kind == "missing-shard"; }));
  EXPECT_FALSE(report.verification.Passes(false));
  EXPECT_EQ(report.tensors.size(), 12U);
}

TEST_F(NumericTest, TellsOfAConfigThatIsNone) {
  checkpoint_.config = "{";
  const NumericReport report = Run();
  ASSERT_FALSE(report.verification.findings.empty());
  EXPECT_EQ(report.verification.findings[0].kind, "unreadable-config");
}

TEST_F(NumericTest, RefusesADirectoryWithoutWeights) {
  request_.input = dir_ / "nothing";
  EXPECT_EQ(testing::ErrorOf([&] { Verify(request_); }).code(), ErrorCode::kBadInput);
}

TEST_F(NumericTest, EndsWhenStopped) {
  checkpoint_.Write(dir_ / "in");
  request_.input = dir_ / "in";
  ProgressSink progress;
  StopToken stop;
  stop.RequestStop();
  EXPECT_EQ(testing::ErrorOf([&] { VerifyNumeric(request_, progress, stop); }).code(),
            ErrorCode::kInterrupted);
}

TEST(NamePatternTest, ReplacesNumbers) {
  EXPECT_EQ(NamePattern("model.layers.12.mlp.experts.255.w1.weight"),
            "model.layers.*.mlp.experts.*.w1.weight");
  EXPECT_EQ(NamePattern("lm_head"), "lm_head");
  EXPECT_EQ(NamePattern("a..7"), "a..*");
}

TEST(FindOutliersTest, LeavesWideAndSmallGroupsAlone) {
  const auto group = [](const std::vector<double>& logs) {
    std::vector<TensorMagnitude> tensors;
    for (const double log : logs) {
      tensors.push_back(
          {static_cast<std::uint32_t>(tensors.size()), "p", std::exp2(log), std::exp2(log + 3)});
    }
    return tensors;
  };
  EXPECT_THAT(FindOutliers(group({0, 20})), IsEmpty());
  EXPECT_THAT(FindOutliers(group({0, 1, 2, 3, 4, 5, 6, 7, 14})), IsEmpty());
  EXPECT_THAT(FindOutliers(group({0, 0.1, 0.2, 2.9})), IsEmpty());
  const std::vector<Outlier> found = FindOutliers(group({0, 0.1, 0.2, 0.3, 3.3, 0.2, -3.3}));
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].tensor, 4U);
  EXPECT_EQ(found[1].tensor, 6U);
  EXPECT_TRUE(found[0].by_rms);
  EXPECT_EQ(found[0].group_size, 7U);

  std::vector<TensorMagnitude> spike = group({0, 0.1, 0.2, 0.3});
  spike[2].absmax = 1e4;
  const std::vector<Outlier> by_absmax = FindOutliers(spike);
  ASSERT_EQ(by_absmax.size(), 1U);
  EXPECT_EQ(by_absmax[0].tensor, 2U);
  EXPECT_FALSE(by_absmax[0].by_rms);
  EXPECT_EQ(by_absmax[0].value, 1e4);
}

}  // namespace
}  // namespace dsv3::convert
