#include <cstddef>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/dequantize.h"
#include "tests/convert/recipes/dequantize_test.h"

// What dequantize refuses, and how it says so.
namespace dsv3::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST_F(DequantizeTest, RefusesScalesThatNoWeightHas) {
  Made made = MxFp4(true);
  made.checkpoint.Find(std::string(kModule) + "weight_scale").bytes[11] = '\xFF';
  EXPECT_THAT(Refusal(made).message(), AllOf(HasSubstr("up_proj.weight_scale' is nan at [1, 3]"),
                                             HasSubstr("--allow-bad-scales")));
  made = NvFp4(false);
  made.checkpoint.Find(std::string(kModule) + "weight_scale").bytes[3] = '\x7F';
  EXPECT_THAT(Refusal(made).message(), HasSubstr("weight_scale' is nan at [0, 3]"));
  made = NvFp4(true);
  SetFloat(made.checkpoint.Find(std::string(kModule) + "weight_global_scale"), 0);
  EXPECT_THAT(Refusal(made).message(), HasSubstr("weight_global_scale' is 0 at [0]"));
  made = Int8Rows(Dtype::kF32, 5);
  const float infinity = std::numeric_limits<float>::infinity();
  std::memcpy(made.checkpoint.Find(std::string(kModule) + "weight_offset").bytes.data() + 8,
              &infinity, 4);
  EXPECT_THAT(Refusal(made).message(), HasSubstr("weight_offset' is inf at [2, 0]"));
}

TEST_F(DequantizeTest, AllowBadScalesGoesOnAndCountsThem) {
  Made made = MxFp4(true);
  made.checkpoint.Find(std::string(kModule) + "weight_scale").bytes[0] = '\xFF';
  Write(made);
  Conversion conversion = Command();
  conversion.kind = convert::DequantizeConversion({.allow_bad_scales = true});
  const convert::ConversionReport report = conversion.Run();
  ASSERT_EQ(report.bad_scales.size(), 1U);
  EXPECT_EQ(report.bad_scales[0].count, 1U);
}

TEST_F(DequantizeTest, RefusesWhatIsMissing) {
  const auto without = [&](Made made, const std::string& part) {
    made.checkpoint.Drop(kModule + part);
    return Refusal(made).message();
  };
  EXPECT_THAT(without(PackedInt4(32), "weight_scale"), HasSubstr("weight_scale' is in no shard"));
  EXPECT_THAT(without(NvFp4(false), "weight_scale_2"), HasSubstr("weight_scale_2' is in no shard"));
  EXPECT_THAT(without(NvFp4(true), "weight_global_scale"),
              HasSubstr("weight_global_scale' is in no shard"));
  EXPECT_THAT(without(NvFp4(true), "weight_packed"), HasSubstr("but there are none"));
  Made made = PackedInt4(32);
  SetConfig(made, Compressed("pack-quantized", R"({"num_bits": 4, "type": "int",
                       "strategy": "group", "group_size": 32, "symmetric": false})"));
  EXPECT_THAT(Refusal(made).message(), HasSubstr("weight_zero_point' is in no shard"));
}

TEST_F(DequantizeTest, RefusesShapesThatContradict) {
  Made made = PackedInt4(32);
  made.checkpoint.Find(std::string(kModule) + "weight_shape").bytes[8] = 8;
  EXPECT_THAT(Refusal(made).message(), HasSubstr("weight_shape' says [24, 264]"));
  made = PackedInt4(32);
  SetConfig(made, Compressed("pack-quantized", R"({"num_bits": 4, "type": "int",
                       "strategy": "group", "group_size": 64})"));
  EXPECT_THAT(Refusal(made).message(), HasSubstr("has shape [24, 8], expected [24, 4]"));
  made = Made();
  made.Add("weight", Dtype::kU8, {kRows, 20});
  made.Add("weight_scale", Dtype::kF8E4M3, {kRows, 3});
  SetFloat(made.Add("weight_scale_2", Dtype::kF32, {}), 1);
  SetConfig(made, "");
  EXPECT_THAT(Refusal(made).message(),
              AllOf(HasSubstr("up_proj.weight'"),
                    HasSubstr("groups of 16 columns do not divide its 40 columns")));
  made = PackedInt4WithZeroPoints();
  TinyTensor& zeros = made.checkpoint.Find(std::string(kModule) + "weight_zero_point");
  zeros.shape = {kRows, 1};
  zeros.bytes.resize(kRows * 4);
  EXPECT_THAT(Refusal(made).message(), HasSubstr("expected I32 [3, 8]"));
}

// compressed-tensors takes the packed words for values then, and engines pass over them.
TEST_F(DequantizeTest, RefusesZeroPointsThatTheConfigDenies) {
  for (const char* symmetric : {"", R"(, "symmetric": true)"}) {
    Made made = PackedInt4WithZeroPoints();
    SetConfig(made, Compressed("pack-quantized", fmt::format(R"({{"num_bits": 4, "type": "int",
                         "strategy": "group", "group_size": 32{}}})",
                                                             symmetric)
                                                     .c_str()));
    EXPECT_THAT(Refusal(made).message(), AllOf(HasSubstr("weight_zero_point' holds zero points"),
                                               HasSubstr("by config.json (symmetric)")));
  }
}

// What the codes mean would have to be multiplied with it, column by column.
TEST_F(DequantizeTest, RefusesScalesOfActivationsByColumns) {
  Made made = NvFp4(false);
  made.AddScale("pre_quant_scale", Dtype::kBF16, {kCols});
  EXPECT_THAT(Refusal(made).message(),
              HasSubstr("pre_quant_scale' scales the columns of its activations"));
}

TEST_F(DequantizeTest, RefusesTwoFormsOfOneWeight) {
  Made made = Int8Rows(Dtype::kBF16, 0);
  made.AddScale("weight_scale_inv", Dtype::kF32, {1, 2});
  SetConfig(made, R"("quantization_config": {"quant_method": "blockwise_int8",
                                             "weight_block_size": [128, 128]})");
  EXPECT_THAT(Refusal(made).message(),
              AllOf(HasSubstr("up_proj.weight'"), HasSubstr("belongs to another form")));
  made = PackedInt4(32);
  made.Add("weight", Dtype::kBF16, {kRows, kCols});
  EXPECT_THAT(Refusal(made).code(), ErrorCode::kBadInput);
}

TEST_F(DequantizeTest, RefusesStaticInt8WithoutTheScaleOfItsActivations) {
  Made made = StaticInt8();
  made.checkpoint.Drop(std::string(kModule) + "input_scale");
  EXPECT_THAT(Refusal(made).message(), HasSubstr("up_proj.input_scale' is in no shard"));
  made = StaticInt8();
  // Of F16 models: the bits of an F32.
  TinyTensor& scale = made.checkpoint.Find(std::string(kModule) + "deq_scale");
  scale.dtype = Dtype::kI64;
  scale.bytes += scale.bytes;
  EXPECT_THAT(Refusal(made).message(), HasSubstr("deq_scale' is I64, expected F32"));
  made = StaticInt8();
  made.checkpoint.Find(std::string(kModule) + "input_scale").dtype = Dtype::kI32;
  EXPECT_THAT(Refusal(made).message(), HasSubstr("input_scale' is I32, expected F32"));
}

TEST_F(DequantizeTest, RefusesBiasesAmongTheIntegersOfStaticInt8) {
  const auto with = [&](const std::string& part, const auto& change) {
    Made made = StaticInt8();
    change(made.checkpoint.Find(kModule + part));
    return Refusal(made).message();
  };
  const auto add = [](int row, std::int32_t steps) {
    return [=](TinyTensor& bias) {
      std::int32_t stored = 0;
      std::memcpy(&stored, bias.bytes.data() + row * 4, sizeof stored);
      stored += steps;
      std::memcpy(bias.bytes.data() + row * 4, &stored, sizeof stored);
    };
  };
  EXPECT_THAT(with("quant_bias", add(5, -20)),
              AllOf(HasSubstr("up_proj.quant_bias'"), HasSubstr("in row 5 -20 steps")));
  EXPECT_THAT(with("quant_bias", [](TinyTensor& bias) { bias.dtype = Dtype::kF32; }),
              HasSubstr("up_proj.quant_bias' is F32 [24], expected 24 I32 values"));
  EXPECT_THAT(with("input_offset",
                   [](TinyTensor& offset) {
                     offset.shape = {2};
                     offset.bytes += offset.bytes;
                   }),
              HasSubstr("up_proj.input_offset' is F32 [2], expected one"));
  EXPECT_THAT(with("input_offset", [](TinyTensor& offset) { SetFloat(offset, 0); }),
              HasSubstr("up_proj.quant_bias' holds a bias"));
}

// The rounding of a bias, and of sums in float, is none.
TEST_F(DequantizeTest, TakesWhatTheExportersRoundingLeaves) {
  Made made = StaticInt8();
  made.checkpoint.Find(std::string(kModule) + "quant_bias").bytes[0] ^= 1;
  Write(made);
  const convert::ConversionReport report = Command().Run();
  EXPECT_EQ(report.converted_tensors, 1U);
  // What only codes need goes, C8's scales included.
  for (const convert::ReportFact& fact : report.facts) {
    if (fact.member != "dropped") continue;
    EXPECT_THAT(fact.names, ::testing::IsSupersetOf({std::string(kModule) + "fa_k.offset",
                                                     std::string(kModule) + "fa_q.scale"}));
  }
}

TEST_F(DequantizeTest, RefusesAwqThatIsNotWhole) {
  const auto without = [&](const std::string& part) {
    Made made = Awq(64);
    made.checkpoint.Drop(kModule + part);
    return Refusal(made).message();
  };
  EXPECT_THAT(without("scales"), HasSubstr("up_proj.scales' is in no shard"));
  EXPECT_THAT(without("qzeros"), HasSubstr("up_proj.qzeros' is in no shard"));
  EXPECT_THAT(without("qweight"),
              HasSubstr("neither 'model.layers.3.mlp.experts.7.up_proj.qweight'"));
  Made made = Awq(64);
  made.Add("weight", Dtype::kBF16, {kRows, kCols});
  EXPECT_THAT(Refusal(made).message(), HasSubstr("expected one of the two"));
  made = Awq(64);
  made.Add("SCB", Dtype::kF32, {kRows});
  EXPECT_THAT(Refusal(made).message(), HasSubstr("belongs to another form"));
}

TEST_F(DequantizeTest, RefusesAwqOfShapesThatContradict) {
  const auto with = [&](const std::string& part, Dtype dtype, const Shape& shape) {
    Made made = Awq(64);
    made.checkpoint.Drop(kModule + part);
    made.Add(part, dtype, shape);
    return Refusal(made).message();
  };
  EXPECT_THAT(with("scales", Dtype::kF16, {8, kRows}),
              AllOf(HasSubstr("scales' has shape [8, 24]"), HasSubstr("group_size 64")));
  EXPECT_THAT(with("scales", Dtype::kF16, {4 * kRows}), HasSubstr("scales' has shape [96]"));
  EXPECT_THAT(with("scales", Dtype::kI32, {4, kRows}), HasSubstr("scales' is I32, expected F32"));
  EXPECT_THAT(with("qzeros", Dtype::kI32, {4, 4}), HasSubstr("expected I32 [4, 3]"));
  EXPECT_THAT(with("qzeros", Dtype::kI8, {4, 3}), HasSubstr("expected I32 [4, 3]"));
  EXPECT_THAT(with("qweight", Dtype::kI32, {kCols, 3, 1}), HasSubstr("is not that of a matrix"));
  EXPECT_THAT(with("qweight", Dtype::kI32, {252, 3}), HasSubstr("its 252 columns"));
  EXPECT_THAT(with("qweight", Dtype::kI32, {320, 3}), HasSubstr("scales' has shape [4, 24]"));
}

TEST_F(DequantizeTest, RefusesAwqThatTheConfigDoesNotExplain) {
  const auto with = [&](const char* quantization) {
    Made made = Awq(64);
    SetConfig(made, quantization);
    return Refusal(made).message();
  };
  EXPECT_THAT(with(""), HasSubstr("config.json has no group_size of AWQ"));
  EXPECT_THAT(with(R"("quantization_config": {"quant_method": "awq", "bits": 4})"),
              HasSubstr("config.json has no group_size of AWQ"));
  EXPECT_THAT(with(R"("quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64,
                                              "version": "gemv"})"),
              HasSubstr("version 'gemv'"));
  EXPECT_THAT(with(R"("quantization_config": {"quant_method": "awq", "bits": 8,
                                              "group_size": 64})"),
              HasSubstr("only words of eight INT4 values"));
  EXPECT_THAT(with(R"("quantization_config": {"quant_method": "awq", "bits": 4,
                                              "group_size": "all"})"),
              HasSubstr("group_size"));
}

TEST_F(DequantizeTest, RefusesBadScalesOfAwqWhereTheyAreStored) {
  Made made = Awq(64);
  TinyTensor& scale = made.checkpoint.Find(std::string(kModule) + "scales");
  std::memcpy(scale.bytes.data() + (2 * kRows + 5) * 2, "\x00\x7E", 2);
  EXPECT_THAT(Refusal(made).message(), HasSubstr("scales' is nan at [2, 5]"));
}

// The tensors alone would tell these forms, but whoever wrote the config meant another one.
TEST_F(DequantizeTest, RefusesFormsWhoseMethodOrAlgorithmItDoesNotKnow) {
  const auto method = AllOf(HasSubstr("the method 'exl3' (quant_method)"), HasSubstr("up_proj"));
  for (Made made : {PackedInt4(32), Awq(64), NvFp4(true), MxFp4(true), MxFp8(),
                    Int8Rows(Dtype::kF32, 5), Int8Blocks()}) {
    SetConfig(made, R"("quantization_config": {"quant_method": "exl3"})");
    EXPECT_THAT(Refusal(made).message(), method);
  }
  Made made = NvFp4(false);
  std::string& description = made.checkpoint.side_files.at("hf_quant_config.json");
  const std::size_t at = description.find("NVFP4");
  ASSERT_NE(at, std::string::npos);
  description.replace(at, 5, "EXL3");
  EXPECT_THAT(Refusal(made).message(),
              AllOf(HasSubstr("the algorithm 'EXL3' (quant_algo)"), HasSubstr("up_proj")));
}

TEST_F(DequantizeTest, RefusesFp8OfFormatsThatItDoesNotKnow) {
  const auto fp8 = [] {
    Made made;
    made.Add("weight", Dtype::kF8E4M3, {kRows, kCols});
    made.AddScale("weight_scale", Dtype::kF32, {1, 3});
    return made;
  };
  Made made = fp8();
  SetConfig(made, R"("quantization_config": {"quant_method": "fp8", "fmt": "e3m4",
                                             "weight_block_size": [128, 128]})");
  EXPECT_THAT(Refusal(made).message(), HasSubstr("quantization_config.fmt is 'e3m4'"));
  made = fp8();
  SetConfig(made, Compressed("marlin-24", R"({"num_bits": 8, "type": "float", "strategy": "block",
                                              "block_structure": [128, 128]})"));
  EXPECT_THAT(Refusal(made).message(), HasSubstr("the format 'marlin-24' of quantization_config"));
}

TEST_F(DequantizeTest, NamesTheMissingScaleOfModelOptAndNotTheConfig) {
  Made made = MxFp8();
  made.checkpoint.Drop(std::string(kModule) + "weight_scale_inv");
  SetConfig(made, "");
  made.checkpoint.side_files["hf_quant_config.json"] =
      R"({"quantization": {"quant_algo": "MXFP8"}})";
  EXPECT_THAT(Refusal(made).message(),
              AllOf(HasSubstr("FP8 tensor"), HasSubstr("up_proj.weight_scale' is in no shard")));
}

TEST_F(DequantizeTest, NamesWhatItDoesNotKnow) {
  Made made = PackedInt4(32);
  SetConfig(made, Compressed("marlin-24", R"({"num_bits": 4, "type": "int",
                       "strategy": "group", "group_size": 32})"));
  EXPECT_THAT(Refusal(made).message(), HasSubstr("'marlin-24'"));
  made = Made();
  SetConfig(made, R"("quantization_config": {"quant_method": "exl3"})");
  EXPECT_THAT(Refusal(made).message(),
              AllOf(HasSubstr("not a quantised checkpoint"), HasSubstr("'exl3'")));
  made = Made();
  made.Add("weight", Dtype::kI8, {kRows, kCols});
  made.AddScale("row_scale", Dtype::kF32, {kRows});
  SetConfig(made, "");
  EXPECT_THAT(Refusal(made).message(),
              AllOf(HasSubstr("up_proj.weight' is I8"), HasSubstr("no form that is known")));
  made = Made();
  made.Add("qweight", Dtype::kI32, {kCols / 8, kRows});
  made.Add("qzeros", Dtype::kI32, {kCols / 128, kRows / 8});
  made.Add("scales", Dtype::kF16, {kCols / 128, kRows});
  SetConfig(made, R"("quantization_config": {"quant_method": "gptq", "bits": 4})");
  EXPECT_THAT(Refusal(made).message(), AllOf(HasSubstr("GPTQ"), HasSubstr("is not read")));
}

}  // namespace
}  // namespace dsv3::testing
