#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/verify/numeric.h"
#include "convert/verify/structure.h"
#include "formats/finding.h"
#include "tests/convert/recipes/dequantize_test.h"

// Tensors beside codes: each that is missing, and each that is out of place, in every form.
namespace dsv3::testing {
namespace {

using ::testing::HasSubstr;

// Scales of activations, which the values of weights do not need, and of attention.
bool IsOfActivations(std::string_view part) {
  return part.starts_with("input_scale") || part == "input_global_scale" || part.starts_with("fa_");
}

class CompanionsTest : public DequantizeTest, public ::testing::WithParamInterface<QuantizedCase> {
 protected:
  // Whether some finding is an error that names the tensor `name`, or says it.
  static bool Names(const formats::Findings& findings, const std::string& name) {
    for (const formats::Finding& finding : findings) {
      if (finding.severity != formats::Severity::kError) continue;
      if (finding.tensor == name || finding.message.find(name) != std::string::npos) return true;
    }
    return false;
  }

  // Expects that every command names the tensor that is missing or out of place.
  void ExpectNamed(Made& made, const std::string& name) {
    SCOPED_TRACE(name);
    EXPECT_THAT(Refusal(made).message(), HasSubstr("'" + name + "'"));
    EXPECT_TRUE(Names(convert::VerifyStructure({in()}).verification.findings, name));
    convert::ProgressSink progress;
    const convert::StopToken stop;
    const convert::NumericRequest request{.input = in(), .histogram = ""};
    EXPECT_TRUE(Names(convert::VerifyNumeric(request, progress, stop).verification.findings, name));
  }

  static std::vector<std::string> PartsBesideCodes(const Made& made) {
    std::vector<std::string> parts;
    for (const TinyTensor& tensor : made.checkpoint.tensors) {
      if (!tensor.name.starts_with(kModule)) continue;
      const std::string part = tensor.name.substr(std::string_view(kModule).size());
      if (part != made.codes && !IsOfActivations(part)) parts.push_back(part);
    }
    return parts;
  }
};

TEST_P(CompanionsTest, EachThatIsMissingIsNamed) {
  for (const std::string& part : PartsBesideCodes(GetParam().make())) {
    // Without offsets the codes are those of a form that has none.
    if (part == "weight_offset") continue;
    Made made = GetParam().make();
    made.checkpoint.Drop(kModule + part);
    // Where a scale alone says what the codes are, the codes are named that nothing explains; as
    // this config predicts no tensors, only what converts them does so.
    const std::string form = GetParam().name;
    const bool explains = part != "input_offset" && part != "quant_bias" &&
                          (form.starts_with("StaticInt8") || form == "W4AFp8" ||
                           form == "MxFp4OfV4" || form == "Int8RowsWithOffsets");
    if (explains) {
      EXPECT_THAT(Refusal(made).message(), HasSubstr("'" + (kModule + made.codes) + "'"));
    } else {
      ExpectNamed(made, kModule + part);
    }
  }
}

TEST_P(CompanionsTest, EachWithoutCodesIsNamed) {
  for (const std::string& part : PartsBesideCodes(GetParam().make())) {
    if (part == "scales") continue;  // a name that other modules have, too
    Made made = GetParam().make();
    for (const std::string& other : PartsBesideCodes(made)) {
      if (other != part) made.checkpoint.Drop(kModule + other);
    }
    made.checkpoint.Drop(kModule + made.codes);
    made.checkpoint.tensors.erase(
        std::remove_if(made.checkpoint.tensors.begin(), made.checkpoint.tensors.end(),
                       [](const TinyTensor& tensor) {
                         return tensor.name == std::string(kModule) + "input_global_scale";
                       }),
        made.checkpoint.tensors.end());
    ExpectNamed(made, kModule + part);
  }
}

TEST_P(CompanionsTest, EachOfAnotherFormIsNamed) {
  const std::set<std::string> own = [] {
    const std::vector<std::string> parts = PartsBesideCodes(GetParam().make());
    return std::set<std::string>(parts.begin(), parts.end());
  }();
  const std::string form = GetParam().name;
  const bool is_int8 = form.starts_with("Int8Rows");
  for (const char* const part :
       {"weight_shape", "weight_scale_2", "weight_global_scale", "input_global_scale",
        "weight_offset", "deq_scale", "quant_bias", "qzeros", "scales", "weight_scales"}) {
    // Static W8A8 may have both scales, and there are offsets, or none.
    const bool may_have = is_int8 && (std::string_view(part) == "deq_scale" ||
                                      std::string_view(part) == "quant_bias" ||
                                      std::string_view(part) == "weight_offset");
    // E2M1 in U8 with the tensor scale of NVFP4 is NVFP4, and other parts are then out of place.
    const bool changes_form =
        form == "MxFp4OfCompressedTensors" && std::string_view(part) == "weight_global_scale";
    const bool is_there =
        form == "NvFp4OfCompressedTensors" && std::string_view(part) == "input_global_scale";
    if (own.count(part) != 0 || may_have || changes_form || is_there) continue;
    Made made = GetParam().make();
    SetFloat(made.Add(part, Dtype::kF32, {1}), 1);
    ExpectNamed(made, kModule + std::string(part));
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, CompanionsTest, ::testing::ValuesIn(kCases),
                         [](const auto& each) { return std::string(each.param.name); });

class OrphanTest : public DequantizeTest {};

TEST_F(OrphanTest, BesideAFloatIsNamed) {
  for (const char* const part :
       {"weight_shape", "weight_scale_2", "input_global_scale", "deq_scale", "scales", "SCB",
        "g_idx", "weight.absmax", "weight.quant_state.bitsandbytes__nf4"}) {
    Made made = Int8Rows(Dtype::kBF16, 0);
    made.checkpoint.Add(kTinyShard1, "plain.weight", Dtype::kBF16, {4, 8});
    made.checkpoint.Add(kTinyShard1, std::string("plain.") + part, Dtype::kF32, {1});
    EXPECT_THAT(Refusal(made).message(),
                ::testing::AllOf(HasSubstr("'plain." + std::string(part) + "'"),
                                 HasSubstr("'plain.weight' holds values that are not quantised")));
  }
}

TEST_F(OrphanTest, BesideFp8WithScalesIsNamed) {
  Made made = Int8Rows(Dtype::kBF16, 0);
  made.checkpoint.config = R"({"model_type": "tiny", "quantization_config": {
      "quant_method": "fp8", "weight_block_size": [128, 128]}})";
  made.checkpoint.Add(kTinyShard1, "fp8.weight", Dtype::kF8E4M3, {4, 8});
  made.checkpoint.AddScale(kTinyShard1, "fp8.weight_scale_inv", Dtype::kF32, {1, 1});
  made.checkpoint.Add(kTinyShard2, "fp8.weight_shape", Dtype::kI64, {2});
  EXPECT_THAT(Refusal(made).message(),
              ::testing::AllOf(HasSubstr("'fp8.weight'"), HasSubstr("'fp8.weight_shape' belongs")));
}

TEST_F(OrphanTest, OffsetsThatOnlySomeWeightsHaveAreMissed) {
  Made made = Int8Rows(Dtype::kF32, 5);
  made.checkpoint.Add(kTinyShard1, "second.weight", Dtype::kI8, {kRows, kCols});
  made.checkpoint.AddScale(kTinyShard1, "second.weight_scale", Dtype::kF32, {kRows, 1});
  EXPECT_THAT(Refusal(made).message(),
              ::testing::AllOf(HasSubstr("'second.weight'"),
                               HasSubstr("'second.weight_offset' is in no shard")));
}

TEST_F(OrphanTest, ZeroPointsThatTheConfigSaysAreMissed) {
  Made made = Int8Rows(Dtype::kBF16, 0);
  SetConfig(made, Compressed("int-quantized", R"({"num_bits": 8, "type": "int",
                       "strategy": "channel", "symmetric": false})"));
  EXPECT_THAT(Refusal(made).message(), HasSubstr("weight_zero_point' is in no shard"));
}

}  // namespace
}  // namespace dsv3::testing
