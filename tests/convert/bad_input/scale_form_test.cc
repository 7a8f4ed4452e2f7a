#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/bad_input/bad_input_test.h"
#include "tests/convert/support/scale_config.h"

// Scales in forms that contradict the config, and weights of formats that are not converted.
namespace dsv3::testing {
namespace {

using formats::Dtype;
using ::testing::AllOf;
using ::testing::HasSubstr;

class ScaleRefusalTest : public BadInputTest {
 protected:
  ScaleRefusalTest() {
    checkpoint_ = {};
    checkpoint_.config = Fp8Config(R"(, "weight_block_size": [4, 8])");
    checkpoint_.Add(kTinyShard1, "a.weight", Dtype::kF8E4M3, {4, 8});
    checkpoint_.AddScale(kTinyShard1, "a.weight_scale_inv", Dtype::kF32, {1, 1});
  }
};

// Checkpoints that are whole and sound, but of a format that is not converted.
class UnsupportedFormatTest : public ScaleRefusalTest {
 protected:
  UnsupportedFormatTest() { in_structure_ = InStructure::kNotTouched; }
};

TEST_F(ScaleRefusalTest, RefusesTwoScalesForOneWeight) {
  checkpoint_.AddScale(kTinyShard1, "a.weight_scale", Dtype::kF32, {1, 1});
  WriteInput();
  ExpectBadInput("'a.weight'", "two scales", "'a.weight_scale_inv'", "'a.weight_scale'");
}

TEST_F(UnsupportedFormatTest, RefusesPackedFp4ExpertsOfV4) {
  checkpoint_.Add(kTinyShard1, "ffn.experts.0.w1.weight", Dtype::kI8, {4, 32});
  checkpoint_.AddScale(kTinyShard1, "ffn.experts.0.w1.scale", Dtype::kF8E8M0, {4, 2});
  checkpoint_.Add(kTinyShard2, "ffn.experts.1.w1.weight", Dtype::kI8, {4, 32});
  checkpoint_.AddScale(kTinyShard2, "ffn.experts.1.w1.scale", Dtype::kF8E8M0, {4, 2});
  WriteInput();
  ExpectBadInput(kTinyShard1, "'ffn.experts.0.w1.weight'", "packed FP4", "1 more such tensor");
}

TEST_F(UnsupportedFormatTest, RefusesInt8Weights) {
  checkpoint_.Add(kTinyShard1, "b.weight", Dtype::kI8, {4, 32});
  checkpoint_.AddScale(kTinyShard1, "b.weight_scale", Dtype::kF32, {4, 1});
  WriteInput();
  ExpectBadInput("'b.weight'", "INT8");
}

TEST_F(UnsupportedFormatTest, RefusesPackedInt4) {
  checkpoint_.tensors.clear();
  checkpoint_.config =
      R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
          "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int",
          "strategy": "group", "group_size": 32}}}}})";
  checkpoint_.Add(kTinyShard1, "e.weight_packed", Dtype::kI32, {4, 8});
  checkpoint_.Add(kTinyShard1, "e.weight_scale", Dtype::kBF16, {4, 2});
  checkpoint_.Add(kTinyShard1, "e.weight_shape", Dtype::kI64, {2});
  WriteInput();
  ExpectBadInput("'e.weight_packed'", "packed INT4", "pack-quantized");
}

TEST_F(UnsupportedFormatTest, RefusesNvFp4) {
  checkpoint_.tensors.clear();
  checkpoint_.Add(kTinyShard1, "e.weight", Dtype::kU8, {4, 16});
  checkpoint_.Add(kTinyShard1, "e.weight_scale", Dtype::kF8E4M3, {4, 2});
  checkpoint_.Add(kTinyShard1, "e.weight_scale_2", Dtype::kF32, {});
  WriteInput();
  ExpectBadInput("'e.weight'", "NVFP4");
}

TEST_F(UnsupportedFormatTest, RefusesAwqAndGptq) {
  checkpoint_.tensors.clear();
  checkpoint_.Add(kTinyShard1, "e.qweight", Dtype::kI32, {4, 2});
  checkpoint_.Add(kTinyShard1, "e.scales", Dtype::kF16, {4, 2});
  WriteInput();
  ExpectBadInput("'e.qweight'", "AWQ");
  checkpoint_.Add(kTinyShard1, "e.g_idx", Dtype::kI32, {4});
  WriteInput();
  ExpectBadInput("'e.qweight'", "GPTQ");
}

TEST_F(ScaleRefusalTest, RefusesBytesAsScalesThatTheConfigDoesNotExplain) {
  checkpoint_.tensors.pop_back();
  checkpoint_.AddScale(kTinyShard1, "a.weight_scale_inv", Dtype::kU8, {1, 1});
  WriteInput();
  ExpectBadInput("'a.weight_scale_inv' is U8", "mxfp8-quantized");
}

TEST_F(ScaleRefusalTest, RefusesGroupsOfWhichTwoFit) {
  checkpoint_.tensors.clear();
  checkpoint_.config =
      R"({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {
          "a": {"weights": {"type": "float", "strategy": "group", "group_size": 5}},
          "b": {"weights": {"type": "float", "strategy": "group", "group_size": 6}}}}})";
  checkpoint_.Add(kTinyShard1, "a.weight", Dtype::kF8E4M3, {4, 9});
  checkpoint_.AddScale(kTinyShard1, "a.weight_scale", Dtype::kF32, {4, 2});
  WriteInput();
  ExpectBadInput("'a.weight_scale'", "group_size 5", "group_size 6",
                 "it is not clear which of the two it follows");
}

TEST_F(ScaleRefusalTest, TakesTheGroupThatFits) {
  checkpoint_.tensors.clear();
  checkpoint_.config =
      R"({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {
          "a": {"weights": {"type": "float", "strategy": "channel"}},
          "b": {"weights": {"type": "float", "strategy": "block", "block_structure": [2, 2]}},
          "c": {"weights": {"type": "int", "num_bits": 4, "strategy": "group"}}}}})";
  checkpoint_.Add(kTinyShard1, "a.weight", Dtype::kF8E4M3, {4, 6});
  checkpoint_.AddScale(kTinyShard1, "a.weight_scale", Dtype::kF32, {4, 1});
  checkpoint_.Add(kTinyShard1, "b.weight", Dtype::kF8E4M3, {4, 6});
  checkpoint_.AddScale(kTinyShard1, "b.weight_scale", Dtype::kF32, {2, 3});
  WriteInput();
  EXPECT_EQ(Convert().converted_tensors, 2u);
}

TEST_F(ScaleRefusalTest, RefusesAGroupWithoutItsBlock) {
  checkpoint_.config = CompressedConfig(R"("strategy": "block")");
  WriteInput();
  ExpectBadInput("config.json", "compressed-tensors", "no group of 8-bit float weights");
}

TEST_F(ScaleRefusalTest, CountsFurtherFaults) {
  checkpoint_.Add(kTinyShard1, "b.weight", Dtype::kF8E4M3, {4, 8});
  checkpoint_.Add(kTinyShard1, "c.weight", Dtype::kF8E4M3, {4, 8});
  checkpoint_.AddScale(kTinyShard2, "d.weight_scale_inv", Dtype::kF32, {1, 1});
  WriteInput();
  ExpectBadInput("'b.weight'", "no scale", "(2 more faults of weights and scales)");
}

class ScaleFmtWarningTest : public ScaleRefusalTest {
 protected:
  void SetScale(const std::string& name, float value) {
    checkpoint_.AddScale(kTinyShard1, name, Dtype::kF32, {1, 1}).bytes = BytesOf(value);
    checkpoint_.Add(kTinyShard1, name.substr(0, name.size() - 10), Dtype::kF8E4M3, {4, 8});
  }
  std::string Warning() {
    WriteInput();
    const convert::ConversionReport report = Convert();
    for (const formats::Finding& warning : report.warnings) {
      if (warning.kind == "scale-fmt-contradiction") return warning.message;
    }
    return "";
  }
};

TEST_F(ScaleFmtWarningTest, SaysNothingWhereTheClaimHolds) {
  checkpoint_.config = Fp8Config(R"(, "scale_fmt": "ue8m0", "weight_block_size": [4, 8])");
  checkpoint_.Find("a.weight_scale_inv").bytes = BytesOf(0.25F);
  EXPECT_EQ(Warning(), "");
}

TEST_F(ScaleFmtWarningTest, NamesV31sExceptionApart) {
  checkpoint_.config = Fp8Config(R"(, "scale_fmt": "ue8m0", "weight_block_size": [4, 8])");
  checkpoint_.Find("a.weight_scale_inv").bytes = BytesOf(0.25F);
  SetScale("l.0.self_attn.o_proj.weight_scale_inv", 1.3228757F / 1024);
  EXPECT_THAT(Warning(), AllOf(HasSubstr("scale_fmt is \"ue8m0\""), HasSubstr("1.32288"),
                               HasSubstr("V3.1"), HasSubstr("1 scale tensor,")));
}

TEST_F(ScaleFmtWarningTest, CountsTheScalesThatContradict) {
  checkpoint_.config = Fp8Config(R"(, "scale_fmt": "ue8m0", "weight_block_size": [4, 8])");
  checkpoint_.Find("a.weight_scale_inv").bytes = BytesOf(0.3F);
  SetScale("b.weight_scale_inv", 0.5F);
  SetScale("c.weight_scale_inv", 0.7F);
  EXPECT_THAT(Warning(), AllOf(HasSubstr("scale_fmt"), HasSubstr("2 scale tensors"),
                               HasSubstr("'a.weight_scale_inv' (2 scales)")));
}

TEST_F(ScaleFmtWarningTest, WarnsOfPowersOfTwoThatTheConfigDoesNotTell) {
  checkpoint_.Find("a.weight_scale_inv").bytes = BytesOf(0.25F);
  SetScale("b.weight_scale_inv", 1.0F);
  EXPECT_THAT(Warning(), AllOf(HasSubstr("there is no scale_fmt"), HasSubstr("powers of two")));
  request_.run.overwrite = true;
  checkpoint_.config = Fp8Config(R"(, "scale_fmt": "float", "weight_block_size": [4, 8])");
  EXPECT_THAT(Warning(), HasSubstr("scale_fmt is 'float'"));
}

TEST_F(ScaleFmtWarningTest, SaysNothingOfScalesThatAreAllOne) {
  checkpoint_.Find("a.weight_scale_inv").bytes = BytesOf(1.0F);
  EXPECT_EQ(Warning(), "");
}

}  // namespace
}  // namespace dsv3::testing
