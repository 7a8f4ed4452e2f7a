// What `numeric` finds.

#include "convert/verify/numeric.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/sample.h"
#include "formats/io/file_system.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/verify/numeric_test.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Finding;
using formats::Severity;
using testing::BF16Bytes;
using ::testing::ElementsAre;
using testing::ExpectFinding;
using testing::F32Bytes;
using ::testing::IsEmpty;
using testing::kCols;
using testing::kMtpEmbedding;
using testing::kMtpHead;
using testing::kRows;
using testing::kShard1;
using testing::kShard2;
using testing::Normal;
using testing::NormName;
using testing::NumericTest;
using testing::UpName;
using testing::Verify;

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
  checkpoint_.Drop(UpName(2) + "_scale_inv");
  const Finding finding = OnlyFinding();
  EXPECT_EQ(finding.severity, Severity::kError);
  EXPECT_EQ(finding.kind, "missing-scale");
  EXPECT_EQ(finding.tensor, UpName(2));
}

TEST_F(NumericTest, FindsWeightsThatWereNeverWritten) {
  Bytes(UpName(2)) = std::string(kRows * kCols - 1, '\0') + '\x80';  // −0, too
  SetFloat(UpName(2) + "_scale_inv", 0, 1.25e-4F);
  const NumericReport report = Run();
  ASSERT_EQ(report.verification.findings.size(), 1U);
  ExpectFinding(
      report.verification.findings[0], Severity::kError, "all-zero", UpName(2),
      "all 200 values are zero, but the scale at [0, 0] is 0.000125, which no tool writes "
      "for zeros; this part of the file was never written: fetch the file again");
  EXPECT_FALSE(report.verification.Passes(false));
}

TEST_F(NumericTest, FindsBlocksThatWereNeverWritten) {
  // Blocks of 4 × 8: rows 4 to 7, columns 8 to 19 are two blocks, the second of them ragged.
  for (std::size_t row = 4; row < 8; ++row) Bytes(UpName(3)).replace(row * kCols + 8, 12, 12, '\0');
  SetFloat(UpName(3) + "_scale_inv", 4, 1.5e-4F);
  ExpectFinding(OnlyFinding(), Severity::kError, "zero-blocks", UpName(3),
                "2 blocks are all zero, but the scale at [1, 1] is 0.00015, which no tool writes");
  // One other code, and a block has values.
  Bytes(UpName(3))[7 * kCols + 19] = '\1';
  ExpectFinding(OnlyFinding(), Severity::kError, "zero-blocks", UpName(3), "1 block is all zero");
  // Also beside a NaN.
  Bytes(UpName(3))[0] = '\x7F';
  EXPECT_EQ(Run().verification.findings.size(), 2U);
}

TEST_F(NumericTest, FindsBlocksThatWereNeverWrittenInAnyPiece) {
  for (int layer = 0; layer < 5; ++layer) {
    checkpoint_.Find(UpName(layer)).shape = {900, 1000};
    Bytes(UpName(layer)).assign(900'000, '\x55');
    Bytes(UpName(layer))[0] = '\x54';
    checkpoint_.Find(UpName(layer) + "_scale_inv").shape = {225, 125};
    Bytes(UpName(layer) + "_scale_inv") = F32Bytes(std::vector<float>(225 * 125, 1e-3F));
  }
  // Rows 400 to 699 without their last element: 75 × 124 whole blocks and 75 with a code.
  for (std::size_t row = 400; row < 700; ++row) {
    Bytes(UpName(1)).replace(row * 1000, 999, 999, '\0');
  }
  for (const unsigned threads : {1U, 3U}) {
    request_.threads = threads;
    request_.memory_bytes = 1;
    ExpectFinding(OnlyFinding(), Severity::kError, "zero-blocks", UpName(1),
                  "9300 blocks are all zero, but the scale at [100, 0] is 0.001");
  }
}

TEST_F(NumericTest, TakesBlocksOfZerosUnderTheScalesOfZeros) {
  const std::string scale = UpName(2) + "_scale_inv";
  for (const float zero : {1.0F, 1e-4F / 448, 1e-12F / 448, 0x1p-22F, 0x1p-7F, 0x1p-127F}) {
    SCOPED_TRACE(zero);
    Bytes(UpName(2)) = Bytes(UpName(3));
    for (std::size_t row = 0; row < 4; ++row) Bytes(UpName(2)).replace(row * kCols, 8, 8, '\0');
    SetFloat(scale, 0, zero);
    EXPECT_THAT(Run().verification.findings, IsEmpty());
    // Zero as a whole: a warning, as it was zero before it was quantised.
    Bytes(UpName(2)) = std::string(kRows * kCols, '\0');
    for (std::size_t i = 0; i < 9; ++i) SetFloat(scale, i, zero);
    ExpectFinding(OnlyFinding(), Severity::kWarning, "all-zero", UpName(2),
                  "all 200 values are zero, and its scales are those of zeros");
    for (std::size_t i = 0; i < 9; ++i) SetFloat(scale, i, 1.1e-4F);
  }
}

TEST_F(NumericTest, FindsMatricesWithoutScalesThatWereNeverWritten) {
  for (const char* name : {"lm_head.weight", kMtpHead})
    Bytes(name) = std::string(300 * 8 * 2, '\0');
  checkpoint_.Add(kShard1, "model.layers.0.mlp.experts.gate_up_proj", Dtype::kBF16, {2, 4, 8})
      .bytes = std::string(128, '\0');
  const NumericReport report = Run();
  EXPECT_EQ(report.verification.findings.size(), 3U);
  for (const Finding& finding : report.verification.findings) {
    ExpectFinding(finding, Severity::kError, "all-zero", finding.tensor,
                  "values are zero, and no trained weight matrix is; this part of the file was "
                  "never written: fetch the file again");
  }
}

TEST_F(NumericTest, WarnsOfVectorsAndUnknownMatricesThatAreZero) {
  Bytes(NormName(3)) = std::string(128, '\0');
  checkpoint_.Add(kShard1, "model.layers.0.o.table", Dtype::kI32, {4, 8}).bytes =
      std::string(128, '\0');
  const NumericReport report = Run();
  ASSERT_EQ(report.verification.findings.size(), 2U);
  for (const Finding& finding : report.verification.findings) {
    ExpectFinding(finding, Severity::kWarning, "all-zero", finding.tensor, "values are zero; if");
  }
}

TEST_F(NumericTest, FindsConstantTensors) {
  Bytes(NormName(0)) = BF16Bytes(std::vector<float>(64, 1.5F));
  const NumericReport report = Run();
  ASSERT_EQ(report.verification.findings.size(), 1U);
  ExpectFinding(report.verification.findings[0], Severity::kWarning, "constant", NormName(0),
                "all 64 values are 1.5");
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
  checkpoint_.Drop("lm_head.weight");
  EXPECT_THAT(Run().verification.findings, IsEmpty());  // another head, which is not there
  checkpoint_.config.insert(1, R"("tie_word_embeddings": true, )");
  ExpectFinding(OnlyFinding(), Severity::kError, "mtp-copy-differs", kMtpHead,
                "a copy of 'model.embed_tokens.weight'");
  Bytes(kMtpHead) = Bytes("model.embed_tokens.weight");
  EXPECT_THAT(Run().verification.findings, IsEmpty());
}

TEST_F(NumericTest, FindsOutliersAmongTheLayers) {
  for (const float factor : {20.0F, 0.05F}) {
    SCOPED_TRACE(factor);
    checkpoint_ = testing::CleanCheckpoint();
    std::vector<float> scales(9);
    std::string& bytes = Bytes(UpName(4) + "_scale_inv");
    std::memcpy(scales.data(), bytes.data(), bytes.size());
    for (float& scale : scales) scale *= factor;
    bytes = F32Bytes(scales);
    ExpectFinding(OnlyFinding(), Severity::kWarning, "outlier", UpName(4),
                  "the median of the 5 tensors 'model.layers.*.mlp.up_proj.weight'");
  }
}

TEST_F(NumericTest, FindsATensorWithASingleWildValue) {
  SetBF16(NormName(1), 9, 1e6F);
  const Finding finding = OnlyFinding();
  ExpectFinding(finding, Severity::kWarning, "outlier", NormName(1), "RMS is 1.249e+05");
}

TEST_F(NumericTest, JudgesWhatIsThereWhereAShardIsMissing) {
  // The index lists the scales of the others in the shard that is missing, and this one nowhere.
  checkpoint_.Drop(UpName(2) + "_scale_inv");
  checkpoint_.Write(dir_ / "in");
  std::filesystem::remove(dir_ / "in" / kShard2);
  request_.input = dir_ / "in";
  const NumericReport report = Verify(request_);
  const auto& findings = report.verification.findings;
  ASSERT_EQ(findings.size(), 2U);
  EXPECT_EQ(findings[0].kind, "missing-shard");
  ExpectFinding(findings[1], Severity::kError, "missing-scale", UpName(2), "is in no shard");
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

}  // namespace
}  // namespace dsv3::convert
