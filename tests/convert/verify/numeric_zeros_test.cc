// What `numeric` says of zeros within a weight.

#include "convert/verify/numeric_zeros.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/verify/numeric_test.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Finding;
using formats::Severity;
using testing::BF16Bytes;
using testing::ExpectFinding;
using testing::F32Bytes;
using ::testing::IsEmpty;
using testing::kShard1;
using testing::Normal;
using testing::NumericTest;

constexpr std::uint64_t kRows = 64;
constexpr std::uint64_t kCols = 3000;

class NumericZerosTest : public NumericTest {
 protected:
  // A matrix of values that are not zero.
  std::string& AddMatrix(const std::string& name, Dtype dtype = Dtype::kBF16,
                         const formats::Shape& shape = {kRows, kCols}) {
    const std::vector<float> values =
        Normal(static_cast<std::size_t>(*formats::NumElements(shape)), 0.02F, 7);
    std::string& bytes = checkpoint_.Add(kShard1, name, dtype, shape).bytes;
    bytes = dtype == Dtype::kF32 ? F32Bytes(values) : BF16Bytes(values);
    return bytes;
  }

  static void Clear(std::string& bytes, std::size_t begin, std::size_t end) {
    bytes.replace(begin, end - begin, end - begin, '\0');
  }

  static constexpr char kName[] = "model.layers.0.self_attn.q_a_proj.weight";
};

TEST_F(NumericZerosTest, FindsAPageThatWasNeverWritten) {
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF32}) {
    std::string& bytes = AddMatrix(kName, dtype);
    Clear(bytes, 20'000, 24'096);
    const Finding finding = OnlyFinding();
    const std::size_t element = dtype == Dtype::kF32 ? 4 : 2;
    ExpectFinding(
        finding, Severity::kError, "zero-run", kName,
        fmt::format("4.1 kB (4,096 bytes) in a row are zero, [{}, {}] to [{}, {}], bytes [",
                    20'000 / element / kCols, 20'000 / element % kCols, 24'095 / element / kCols,
                    24'095 / element % kCols));
    EXPECT_THAT(finding.message,
                ::testing::HasSubstr(") of the file; no trained weight matrix has so many; this "
                                     "part of the file was never written: fetch the file again"));
    // A shorter run may be anything.
    bytes[22'000] = '\1';
    EXPECT_THAT(Run().verification.findings, IsEmpty());
    checkpoint_ = testing::CleanCheckpoint();
  }
}

TEST_F(NumericZerosTest, FindsRunsInAnyPiece) {
  std::string& bytes = AddMatrix(kName, Dtype::kBF16, {700, kCols});
  Clear(bytes, 1'000'000, 2'000'001);
  Clear(bytes, 3'000'000, 3'100'000);
  for (const unsigned threads : {1U, 3U}) {
    request_.threads = threads;
    request_.memory_bytes = 1;
    ExpectFinding(
        OnlyFinding(), Severity::kError, "zero-run", kName,
        "2 runs of zeros with 1.1 MB (1,100,001 bytes) together, the first [166, 2000] to");
  }
}

TEST_F(NumericZerosTest, FindsRowsWithinAMatrix) {
  std::string& bytes = AddMatrix(kName);
  Clear(bytes, 20 * 2 * kCols, 30 * 2 * kCols);
  ExpectFinding(OnlyFinding(), Severity::kError, "zero-run", kName, "[20, 0] to [29, 2999]");
}

TEST_F(NumericZerosTest, FindsRunsOfFp8Codes) {
  checkpoint_.config =
      R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 8]}})";
  std::string& codes = checkpoint_.Add(kShard1, kName, Dtype::kF8E4M3, {8, 8000}).bytes;
  codes.assign(codes.size(), '\x51');
  for (std::size_t i = 0; i < codes.size(); i += 3) codes[i] = '\x52';
  checkpoint_.Add(kShard1, std::string(kName) + "_scale_inv", Dtype::kF32, {2, 1000}).bytes =
      F32Bytes(std::vector<float>(2000, 1e-3F));
  // No block is zero as a whole.
  Clear(codes, 1000, 1000 + 4096);
  ExpectFinding(OnlyFinding(), Severity::kError, "zero-run", kName, "[0, 1000] to [0, 5095]");
}

// Two values a byte, and a name that is not that of a matrix.
TEST_F(NumericZerosTest, FindsRunsOfPackedCodes) {
  const std::string name = "model.layers.0.self_attn.q_a_proj.weight_packed";
  const auto add = [&](std::size_t begin, std::size_t end) {
    checkpoint_ = testing::CleanCheckpoint();
    std::string codes(64 * 1024, '\x21');
    Clear(codes, begin, end);
    checkpoint_.Add(kShard1, name, Dtype::kU8, {64, 1024}).bytes = codes;
    checkpoint_.Add(kShard1, "model.layers.0.self_attn.q_a_proj.weight_scale", Dtype::kU8, {64, 64})
        .bytes = std::string(64 * 64, '\x7f');
  };
  add(0, 0);
  EXPECT_THAT(Run().verification.findings, IsEmpty());
  add(5'000, 7'048);
  ExpectFinding(OnlyFinding(), Severity::kError, "zero-run", name, "2.0 kB (2,048 bytes)");
  add(60 * 1024, 64 * 1024);
  ExpectFinding(OnlyFinding(), Severity::kWarning, "zero-rows", name, "4.1 kB (4,096 bytes)");
  add(0, 64 * 1024);
  ExpectFinding(OnlyFinding(), Severity::kError, "all-zero", name, "no trained weight matrix is");
}

// A form that is not read: its codes have no values here.
TEST_F(NumericZerosTest, FindsRunsOfCodesThatAreNotRead) {
  const std::string module = "model.layers.0.self_attn.q_a_proj.";
  checkpoint_.config = R"({"quantization_config": {"quant_method": "gptq", "bits": 4,
                                                   "group_size": 128, "desc_act": true}})";
  std::string& codes = checkpoint_.Add(kShard1, module + "qweight", Dtype::kI32, {32, 512}).bytes;
  codes.assign(codes.size(), '\x52');
  checkpoint_.Add(kShard1, module + "qzeros", Dtype::kI32, {2, 64}).bytes.assign(512, '\x77');
  checkpoint_.Add(kShard1, module + "scales", Dtype::kF16, {2, 512}).bytes.assign(2048, '\x22');
  for (const Finding& finding : Run().verification.findings) EXPECT_NE(finding.kind, "zero-run");
  Clear(codes, 5'000, 9'096);
  const std::vector<Finding> findings = Run().verification.findings;
  const auto found = std::find_if(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.kind == "zero-run";
  });
  ASSERT_NE(found, findings.end());
  ExpectFinding(*found, Severity::kError, "zero-run", module + "qweight", "4,096 bytes");
}

TEST_F(NumericZerosTest, WarnsOfRowsThatMayBeReal) {
  Clear(AddMatrix(kName), 60 * 2 * kCols, 64 * 2 * kCols);
  ExpectFinding(OnlyFinding(), Severity::kWarning, "zero-rows", kName,
                "[60, 0] to [63, 2999], bytes [");
  checkpoint_ = testing::CleanCheckpoint();
  const std::string fused = "model.layers.1.mlp.experts.down_proj";
  Clear(AddMatrix(fused, Dtype::kBF16, {3, kRows, kCols}), kRows * 2 * kCols,
        2 * kRows * 2 * kCols);
  ExpectFinding(OnlyFinding(), Severity::kWarning, "zero-rows", fused,
                "whole rows, which may be padding or may have been pruned");
}

TEST_F(NumericZerosTest, TakesRowsOfTokensThatDoNotExist) {
  std::string& bytes = AddMatrix("model.embed_tokens2.embed_tokens.weight");
  Clear(bytes, 61 * 2 * kCols, 64 * 2 * kCols);
  Clear(bytes, 3 * 2 * kCols, 4 * 2 * kCols);
  EXPECT_THAT(Run().verification.findings, IsEmpty());
}

TEST_F(NumericZerosTest, WarnsOfExpertsThatMayHaveBeenPruned) {
  const auto name = [](int expert, const char* matrix) {
    return fmt::format("model.layers.3.mlp.experts.{}.{}_proj.weight", expert, matrix);
  };
  for (int expert = 0; expert < 3; ++expert) {
    for (const char* matrix : {"gate", "up", "down"}) {
      AddMatrix(name(expert, matrix), Dtype::kBF16, {8, 16});
    }
  }
  const auto clear = [&](int expert, const char* matrix) {
    std::string& bytes = Bytes(name(expert, matrix));
    bytes.assign(bytes.size(), '\0');
  };
  clear(1, "gate");
  clear(1, "up");
  for (const Finding& finding : Run().verification.findings) {
    EXPECT_EQ(finding.severity, Severity::kError) << "a part of an expert: " << finding.message;
  }
  clear(1, "down");
  const NumericReport report = Run();
  EXPECT_EQ(report.verification.findings.size(), 3U);
  for (const Finding& finding : report.verification.findings) {
    ExpectFinding(finding, Severity::kWarning, "all-zero", finding.tensor,
                  "as are all matrices of this expert; unless the expert was pruned, this part");
  }
  // All experts of the layer: nobody prunes these.
  for (const int expert : {0, 2}) {
    for (const char* matrix : {"gate", "up", "down"}) clear(expert, matrix);
  }
  for (const Finding& finding : Run().verification.findings) {
    EXPECT_EQ(finding.severity, Severity::kError) << finding.message;
  }
}

}  // namespace
}  // namespace dsv3::convert
