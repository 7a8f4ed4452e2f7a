#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/forward/comparison_verdict.h"
#include "convert/forward/forward.h"
#include "quant/codec.h"
#include "tests/convert/forward/forward_comparisons.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::ForwardComparisonReport;
using convert::ForwardRequest;
using convert::TensorRelation;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kWeight[] = "model.layers.1.self_attn.q_b_proj.weight";
constexpr char kScale[] = "model.layers.1.self_attn.q_b_proj.weight_scale_inv";
constexpr char kOut[] = "model.layers.2.self_attn.o_proj.weight";

Change Times(float factor) {
  return [factor](std::vector<float>& values, std::size_t) {
    for (float& value : values) value *= factor;
  };
}

class ForwardRelationTest : public ForwardComparisonTest {
 protected:
  // The only difference of OTHER, which is a tensor's.
  static convert::ModuleDifference Only(const fs::path& model, const fs::path& other,
                                        const std::string& tensor) {
    ForwardRequest request = Request(other);
    request.input = model;
    const ForwardComparisonReport report = Compare(request);
    EXPECT_THAT(report.differences, SizeIs(1));
    if (report.differences.empty()) return {};
    EXPECT_EQ(report.differences[0].tensor, tensor);
    return report.differences[0];
  }
};

// A BF16 number changes by a whole last place or not at all.
TEST_F(ForwardRelationTest, AFactorNearOneIsScaledAlthoughElementsAreRounded) {
  for (const float factor : {1.003F, 1.004F, 1.01F, 0.99F, 0.995F, 3.0F}) {
    const fs::path other = Changed("scaled", {{kWeight, Times(factor)}});
    const auto found = Only(Bf16(), other, kWeight);
    EXPECT_EQ(found.relation, TensorRelation::kScaled) << factor;
    EXPECT_NEAR(found.factor.value_or(0), factor, 0x1p-9) << factor;
    fs::remove_all(other);
  }
  // F32 keeps the product itself.
  Tensors tensors = ReadCheckpoint(Bf16());
  tensors.at(kWeight) = Widened(tensors.at(kWeight));
  Edit(tensors, kWeight, Times(1.001F));
  WriteTensors(tensors, Bf16(), dir_ / "wide");
  const auto found = Only(Bf16(), dir_ / "wide", kWeight);
  EXPECT_EQ(found.relation, TensorRelation::kScaled);
  EXPECT_NEAR(found.factor.value_or(0), 1.001, 1e-6);
}

TEST_F(ForwardRelationTest, AScaleTimesAFactorIsScaledInEveryFormOfTheModels) {
  for (const float factor : {1.01F, 1.001F}) {
    const fs::path fp8 = Changed("fp8-scaled", {{kScale, Times(factor)}}, Fp8());
    const fs::path bf16 = dir_ / "bf16-scaled";
    Conversion(fp8, bf16).Run();
    for (const auto& [model, other, error] :
         {std::tuple(Fp8(), fp8, 1e-6), {Fp8(), bf16, 4e-4}, {Bf16(), fp8, 4e-4}}) {
      const auto found = Only(model, other, kWeight);
      EXPECT_EQ(found.relation, TensorRelation::kScaled) << other << factor;
      EXPECT_NEAR(found.factor.value_or(0), factor, error) << other << factor;
    }
    fs::remove_all(fp8);
    fs::remove_all(bf16);
  }
}

TEST_F(ForwardRelationTest, OtherRoundingIsNoFactor) {
  const fs::path other = Changed("cut", {{kWeight, [](std::vector<float>& values, std::size_t) {
                                            // One last place nearer to zero, or as it is.
                                            for (std::size_t i = 0; i < values.size(); ++i) {
                                              if (i % 3 != 0) values[i] *= 1 - 0x1p-8F;
                                            }
                                          }}});
  EXPECT_EQ(Only(Bf16(), other, kWeight).relation, TensorRelation::kValues);
}

TEST_F(ForwardRelationTest, AFactorOfSomeRowsIsScaled) {
  const fs::path other =
      Changed("head", {{kWeight, [](std::vector<float>& values, std::size_t cols) {
                          for (std::size_t i = 0; i < 8 * cols; ++i) {
                            values[i] *= 1.5F;
                          }
                        }}});
  const auto found = Only(Bf16(), other, kWeight);
  EXPECT_EQ(found.relation, TensorRelation::kScaled);
  EXPECT_NEAR(found.factor.value_or(0), 1.5, 0.01);
}

// The rows of the rotary dimensions, whose pairs (2i, 2i + 1) become (i, i + n / 2).
TEST_F(ForwardRelationTest, RotaryDimensionsInHalvesAreRowsInAnotherOrder) {
  const char* const name = "model.layers.1.self_attn.kv_a_proj_with_mqa.weight";
  const auto rope = Json(Bf16() / "config.json")["qk_rope_head_dim"].get<std::size_t>();
  const fs::path other = Changed(
      "halves", {{name, [&](std::vector<float>& values, std::size_t cols) {
                    const std::size_t first = values.size() - rope * cols;
                    const std::vector<float> before = values;
                    for (std::size_t i = 0; i < rope * cols; ++i) {
                      const std::size_t row = i / cols;
                      const std::size_t from = row < rope / 2 ? 2 * row : 2 * (row - rope / 2) + 1;
                      values[first + i] = before[first + from * cols + i % cols];
                    }
                  }}});
  EXPECT_EQ(Only(Bf16(), other, name).relation, TensorRelation::kRowsPermuted);
}

TEST_F(ForwardRelationTest, ADroppedBiasIsZeroedOrAField) {
  const std::string name = "model.layers.2.self_attn.o_proj.bias";
  Tensors tensors = ReadCheckpoint(Bf16());
  const auto bias = [&](const std::string& module) {
    HeldTensor tensor{formats::Dtype::kBF16, {tensors.at(module + ".weight").shape[0]}, {}};
    for (std::size_t i = 0; i < tensor.shape[0]; ++i) {
      const std::uint16_t code = quant::EncodeBF16(0.01F * static_cast<float>(i % 7 + 1));
      tensor.bytes.append(reinterpret_cast<const char*>(&code), sizeof(code));
    }
    return tensor;
  };
  for (int layer = 0; layer <= kMainLayers; ++layer) {
    for (const char* const part : {"q_a_proj", "kv_a_proj_with_mqa", "o_proj"}) {
      const std::string module = "model.layers." + std::to_string(layer) + ".self_attn." + part;
      tensors[module + ".bias"] = bias(module);
    }
  }
  WriteTensors(tensors, Bf16(), dir_ / "biased");
  SetConfig(dir_ / "biased", "attention_bias", true);
  std::fill(tensors.at(name).bytes.begin(), tensors.at(name).bytes.end(), '\0');
  WriteTensors(tensors, dir_ / "biased", dir_ / "zeroed");
  EXPECT_EQ(Only(dir_ / "biased", dir_ / "zeroed", name).relation, TensorRelation::kZeroed);
  const auto field = Only(dir_ / "biased", Bf16(), "");
  EXPECT_EQ(field.relation, TensorRelation::kConfig);
  EXPECT_EQ(field.module, "model.layers.0.self_attn.q_a_proj");
  EXPECT_THAT(field.config, ElementsAre("attention_bias"));
}

// OTHER's o_proj is F32 with the values of the FP8 weight, so its input is not quantised.
TEST_F(ForwardRelationTest, AModuleThatQuantisesOtherInputsIsNamed) {
  Tensors tensors = ReadCheckpoint(Fp8());
  const std::string scale_name = std::string(kOut) + "_scale_inv";
  const HeldTensor scales = tensors.at(scale_name);
  const HeldTensor codes = tensors.at(kOut);
  HeldTensor& weight = tensors.at(kOut);
  weight = {formats::Dtype::kF32, codes.shape, std::string(4 * codes.bytes.size(), '\0')};
  for (std::size_t i = 0; i < codes.bytes.size(); ++i) {
    const std::size_t row = i / codes.shape[1] / 128;
    const std::size_t block = row * scales.shape[1] + i % codes.shape[1] / 128;
    float scale = 0;
    std::memcpy(&scale, scales.bytes.data() + 4 * block, 4);
    const float value = quant::DecodeE4M3(static_cast<std::uint8_t>(codes.bytes[i])) * scale;
    std::memcpy(weight.bytes.data() + 4 * i, &value, 4);
  }
  tensors.erase(scale_name);
  WriteTensors(tensors, Fp8(), dir_ / "part");
  for (const bool turned : {false, true}) {
    ForwardRequest request = Request(dir_ / "part");
    request.input = Fp8();
    if (turned) std::swap(request.input, request.other);
    request.weights = convert::WeightValues::kExact;
    EXPECT_THAT(Compare(request).differences, IsEmpty());
    for (const auto form :
         {convert::ActivationValues::kFp8, convert::ActivationValues::kFp8Ue8m0}) {
      request.activations = form;
      const ForwardComparisonReport report = Compare(request);
      ASSERT_THAT(report.differences, SizeIs(1));
      const convert::ModuleDifference& found = report.differences[0];
      EXPECT_EQ(found.module + ".weight", kOut);
      EXPECT_EQ(found.relation, TensorRelation::kConfig);
      EXPECT_THAT(found.config, ElementsAre("quantization_config"));
      EXPECT_GT(found.nmse.value_or(0), 1e-5);
      EXPECT_LT(found.nmse.value_or(1), 1e-2);
      EXPECT_GT(report.logits.nmse, 1e-10);
      EXPECT_THAT(convert::JudgeComparison(report, {}).at(0).message,
                  HasSubstr("FP8 in one model alone"));
    }
  }
}

}  // namespace
}  // namespace dsv3::testing
