#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/stream/executor.h"
#include "convert/verify/numeric.h"
#include "quant/codec.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/convert/support/value_bytes.h"
#include "tests/support/temp_dir.h"

// What tests of `numeric` share.
namespace dsv3::testing {

inline constexpr char kShard1[] = "model-00001-of-00002.safetensors";
inline constexpr char kShard2[] = "model-00002-of-00002.safetensors";
inline constexpr std::uint64_t kRows = 10;  // ragged: blocks are of 4 × 8
inline constexpr std::uint64_t kCols = 20;
inline constexpr std::uint64_t kScaleCols = 3;

inline std::vector<float> Normal(std::size_t size, float deviation, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

inline std::string UpName(int layer) {
  return fmt::format("model.layers.{}.mlp.up_proj.weight", layer);
}
inline std::string NormName(int layer) { return fmt::format("model.layers.{}.norm.weight", layer); }
inline constexpr char kMtpEmbedding[] = "model.layers.5.embed_tokens.weight";
inline constexpr char kMtpHead[] = "model.layers.5.shared_head.head.weight";

// Five layers and an MTP layer's copies, without fault.
inline TinyCheckpoint CleanCheckpoint() {
  TinyCheckpoint checkpoint;
  checkpoint.config = TinyConfig();
  for (int layer = 0; layer < 5; ++layer) {
    const auto seed = static_cast<std::uint32_t>(layer);
    std::string& codes =
        checkpoint.Add(kShard1, UpName(layer), formats::Dtype::kF8E4M3, {kRows, kCols}).bytes;
    codes.clear();
    for (const float value : Normal(kRows * kCols, 100, seed)) {
      codes += static_cast<char>(quant::EncodeE4M3(std::clamp(value, -448.0F, 448.0F)));
    }
    std::vector<float> scales = Normal(3 * kScaleCols, 1e-5F, seed + 50);
    for (float& scale : scales) scale = 1e-4F + std::abs(scale);
    checkpoint.Add(kShard2, UpName(layer) + "_scale_inv", formats::Dtype::kF32, {3, kScaleCols})
        .bytes = F32Bytes(scales);
    checkpoint.Add(kShard1, NormName(layer), formats::Dtype::kBF16, {64}).bytes =
        BF16Bytes(Normal(64, 1, seed + 100));
  }
  const std::string embedding = BF16Bytes(Normal(300 * 8, 0.5F, 200));
  const std::string head = BF16Bytes(Normal(300 * 8, 0.1F, 201));
  for (const char* name : {"model.embed_tokens.weight", kMtpEmbedding}) {
    checkpoint.Add(kShard2, name, formats::Dtype::kBF16, {300, 8}).bytes = embedding;
  }
  for (const char* name : {"lm_head.weight", kMtpHead}) {
    checkpoint.Add(kShard1, name, formats::Dtype::kBF16, {300, 8}).bytes = head;
  }
  return checkpoint;
}

inline convert::NumericReport Verify(const convert::NumericRequest& request) {
  convert::ProgressSink progress;
  const convert::StopToken stop;
  return convert::VerifyNumeric(request, progress, stop);
}

class NumericTest : public ::testing::Test {
 protected:
  convert::NumericReport Run() {
    std::filesystem::remove_all(dir_ / "in");
    checkpoint_.Write(dir_ / "in");
    request_.input = dir_ / "in";
    return Verify(request_);
  }

  // What is found when nothing but one thing is.
  formats::Finding OnlyFinding() {
    const convert::NumericReport report = Run();
    EXPECT_EQ(report.verification.findings.size(), 1U);
    for (std::size_t i = 1; i < report.verification.findings.size(); ++i) {
      ADD_FAILURE() << report.verification.findings[i].message;
    }
    return report.verification.findings.empty() ? formats::Finding{}
                                                : report.verification.findings[0];
  }

  std::string& Bytes(const std::string& name) { return checkpoint_.Find(name).bytes; }
  void SetFloat(const std::string& name, std::size_t element, float value) {
    std::memcpy(Bytes(name).data() + element * sizeof value, &value, sizeof value);
  }
  void SetBF16(const std::string& name, std::size_t element, float value) {
    const std::string bytes = BF16Bytes({value});
    Bytes(name).replace(element * 2, 2, bytes);
  }

  TempDir dir_{MemoryDirectory()};
  TinyCheckpoint checkpoint_ = CleanCheckpoint();
  convert::NumericRequest request_;
};

inline void ExpectFinding(const formats::Finding& finding, formats::Severity severity,
                          std::string_view kind, const std::string& tensor, std::string_view text) {
  EXPECT_EQ(finding.severity, severity);
  EXPECT_EQ(finding.kind, kind);
  EXPECT_EQ(finding.tensor, tensor);
  EXPECT_THAT(finding.message, ::testing::HasSubstr(text));
  if (!tensor.empty()) {
    EXPECT_THAT(finding.message,
                ::testing::AllOf(::testing::HasSubstr(tensor), ::testing::HasSubstr(finding.file)));
    EXPECT_FALSE(finding.file.empty());
  }
}

}  // namespace dsv3::testing
