#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/recipes/dequantize.h"
#include "convert/recipes/quantize.h"
#include "convert/recipes/quantize_targets.h"
#include "quant/codec.h"
#include "tests/convert/recipes/quantize_test.h"
#include "tests/convert/support/checkpoint_checks.h"
#include "tests/convert/support/reshard.h"
#include "tests/support/files.h"

// Which weights quantize takes of which model, and which of them have a tensor scale together.
namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using dsv3::testing::Conversion;
using dsv3::testing::ErrorOf;
using dsv3::testing::FindTensor;
using dsv3::testing::TensorBytes;
using ::testing::HasSubstr;

constexpr char kExpert[] = "model.layers.3.mlp.experts.1.up_proj";

class QuantizeWeightsTest : public dsv3::testing::QuantizeTest {};

QuantizeOptions To(QuantizeTo to) {
  QuantizeOptions options;
  options.to = to;
  return options;
}

// As model_free_ptq does: one scale for the gate and up of a dense MLP, each its own elsewhere.
TEST_F(QuantizeWeightsTest, LlmCompressorsNvFp4SharesScalesOfDenseMlps) {
  MakeSampleOfGroups();
  QuantizeOptions options = To(QuantizeTo::kNvFp4);
  options.tool = QuantizeTool::kLlmCompressor;
  options.modules = QuantizeModules::kLinear;
  Run(bf16(), out(), options);
  const auto amax_of = [&](const std::string& name) {
    const std::string values = TensorBytes(bf16(), name + ".weight");
    float amax = 0;
    for (std::size_t i = 0; i < values.size(); i += 2) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, values.data() + i, sizeof bits);
      amax = std::max(amax, std::abs(quant::DecodeBF16(bits)));
    }
    return amax;
  };
  const auto scale_of = [&](const std::string& name) {
    const std::string bytes = TensorBytes(out(), name + ".weight_global_scale");
    float scale = 0;
    std::memcpy(&scale, bytes.data(), sizeof scale);
    return scale;
  };
  const auto rounded = [](float value) { return quant::DecodeBF16(quant::EncodeBF16(value)); };
  const auto expected = [&](float amax) { return rounded(rounded(1 / amax) * 2688); };
  const std::string dense = "model.layers.0.mlp.";
  const float together = std::max(amax_of(dense + "gate_proj"), amax_of(dense + "up_proj"));
  EXPECT_NE(amax_of(dense + "gate_proj"), amax_of(dense + "up_proj"));
  EXPECT_EQ(scale_of(dense + "gate_proj"), expected(together));
  EXPECT_EQ(scale_of(dense + "up_proj"), expected(together));
  for (const char* const apart :
       {"model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_a_proj", kExpert,
        "model.layers.3.mlp.experts.1.gate_proj", "model.layers.3.mlp.shared_experts.gate_proj",
        "model.layers.3.mlp.shared_experts.up_proj"}) {
    EXPECT_EQ(scale_of(apart), expected(amax_of(apart))) << apart;
  }
}

TEST_F(QuantizeWeightsTest, ShardsStayWhereWeightsHaveAScaleTogether) {
  MakeSampleOfGroups();
  const auto error_of = [&](const QuantizeOptions& options) {
    Conversion conversion(bf16(), out(), QuantizeConversion(options));
    conversion.request.run.delete_source_shards = true;
    return ErrorOf([&] { conversion.Run(); });
  };
  QuantizeOptions options = To(QuantizeTo::kNvFp4);
  EXPECT_THAT(error_of(options).message(), HasSubstr("have a scale together"));
  options.tool = QuantizeTool::kLlmCompressor;
  options.modules = QuantizeModules::kLinear;
  const Error error = error_of(options);
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("have a scale together"));
  EXPECT_FALSE(fs::exists(out()));
}

// DeepSeek-V4 under its own names, whose experts are the routed ones and whose gate and up are w1
// and w3.
TEST_F(QuantizeWeightsTest, KnowsTheWeightsOfV4) {
  ::dsv3::testing::MakeSample(SamplePreset::kV4, 1, dir_ / "v4");
  const std::string expert = "layers.0.ffn.experts.1.";
  const std::string attention = "layers.0.attn.wq_a.weight";
  for (const QuantizeTarget& target : QuantizeTargets()) {
    const std::string what = fmt::format("{} of {}", target.name, QuantizeToolName(target.tool));
    fs::remove_all(out());
    Run(dir_ / "v4", out(), {target.to, target.tool, std::nullopt});
    const bool experts_alone = target.modules == QuantizeModules::kExperts;
    EXPECT_EQ(FindTensor(out(), attention).entry.dtype == formats::Dtype::kBF16, experts_alone)
        << what;
    const std::string codes(target.codes);
    EXPECT_FALSE(FindTensor(out(), expert + "w2." + codes).file.empty()) << what;
    EXPECT_FALSE(FindTensor(out(), "mtp.0.ffn.experts.1.w2." + codes).file.empty()) << what;
    EXPECT_EQ(FindTensor(out(), "layers.0.attn.attn_sink").entry.dtype, formats::Dtype::kF32);
    EXPECT_EQ(FindTensor(out(), "layers.0.ffn.gate.weight").entry.dtype, formats::Dtype::kBF16);
  }
}

TEST_F(QuantizeWeightsTest, GateAndUpOfV4ShareScales) {
  ::dsv3::testing::MakeSample(SamplePreset::kV4, 1, dir_ / "v4");
  Conversion(dir_ / "v4", bf16(), DequantizeConversion()).Run();
  const std::string expert = "layers.0.ffn.experts.1.";
  dsv3::testing::Poke(bf16(), expert + "w3.weight", 0, "\xA0\x40");  // 5, more than all others
  for (const QuantizeTool tool : {QuantizeTool::kModelOpt, QuantizeTool::kLlmCompressor}) {
    fs::remove_all(out());
    Run(bf16(), out(), {QuantizeTo::kNvFp4, tool, std::nullopt});
    const char* const scale =
        tool == QuantizeTool::kModelOpt ? ".weight_scale_2" : ".weight_global_scale";
    EXPECT_EQ(TensorBytes(out(), expert + "w1" + scale), TensorBytes(out(), expert + "w3" + scale));
    EXPECT_NE(TensorBytes(out(), expert + "w1" + scale), TensorBytes(out(), expert + "w2" + scale));
  }
}

TEST_F(QuantizeWeightsTest, Fp8OfV4HasTheNamesOfItsReleases) {
  ::dsv3::testing::MakeSample(SamplePreset::kV4, 1, dir_ / "v4");
  Run(dir_ / "v4", out(), To(QuantizeTo::kFp8));
  const std::string module = "layers.0.ffn.experts.1.w2.";
  EXPECT_EQ(FindTensor(out(), module + "weight").entry.dtype, formats::Dtype::kF8E4M3);
  EXPECT_EQ(FindTensor(out(), module + "scale").entry.dtype, formats::Dtype::kF32);
  // Engines take the experts for FP4 without it.
  EXPECT_EQ(nlohmann::json::parse(dsv3::testing::ReadFile(out() / "config.json"))["expert_dtype"],
            "fp8");
  ::dsv3::testing::ExpectWithoutFindings(out());
}

}  // namespace
}  // namespace dsv3::convert
