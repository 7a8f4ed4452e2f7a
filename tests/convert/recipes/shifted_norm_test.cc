// Static W8A8 whose activations were shifted by a bias of the norm before them.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/report_fact.h"
#include "convert/recipes/quantize.h"
#include "tests/convert/recipes/dequantize_test.h"
#include "tests/convert/support/reshard.h"
#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kLayer[] = "model.layers.3.";
constexpr char kNorm[] = "model.layers.3.input_layernorm.bias";
constexpr float kOffset = 9;
constexpr float kInputScale = 0.0625F;

class ShiftedNormTest : public DequantizeTest {
 protected:
  ShiftedNormTest() {
    SetConfig(made_, "");
    made_.checkpoint.Add(kTinyShard1, std::string(kLayer) + "input_layernorm.weight", Dtype::kBF16,
                         {kCols});
    TinyTensor& norm = made_.checkpoint.Add(kTinyShard2, kNorm, Dtype::kF32, {kCols});
    for (std::uint64_t col = 0; col < kCols; ++col) {
      shift_.push_back(static_cast<float>(static_cast<int>(col * 7 % 13) - 6) / 8);
    }
    norm.bytes.assign(reinterpret_cast<const char*>(shift_.data()), kCols * sizeof(float));
    for (const char* const name : {"q_a_proj.", "kv_a_proj_with_mqa."}) AddModule(name);
  }

  static std::string Module(std::string_view name) {
    return std::string(kLayer) + "self_attn." + std::string(name);
  }

  // What the exporter writes: the bias that takes the shift back, − W · shift with the weights
  // before they were rounded to codes, beside what takes the offset back.
  void AddModule(const std::string& name) {
    TinyCheckpoint& made = made_.checkpoint;
    const TinyTensor codes =
        made.Add(kTinyShard1, Module(name) + "weight", Dtype::kI8, {kRows, kCols});
    made.AddScale(kTinyShard2, Module(name) + "deq_scale", Dtype::kF32, {kRows});
    SetFloat(made.Add(kTinyShard1, Module(name) + "input_scale", Dtype::kF32, {1}), kInputScale);
    SetFloat(made.Add(kTinyShard1, Module(name) + "input_offset", Dtype::kF32, {1}), kOffset);
    TinyTensor& bias = made.Add(kTinyShard2, Module(name) + "quant_bias", Dtype::kI32, {kRows});
    for (std::uint64_t row = 0; row < kRows; ++row) {
      double steps = 0;
      for (std::uint64_t col = 0; col < kCols; ++col) {
        const double code = ByteAt(codes, row * kCols + col);
        const double before = code + static_cast<double>((row * 31 + col * 17) % 101) / 101 - 0.5;
        steps -= kOffset * code + before * shift_[col] / kInputScale;
      }
      const auto stored = static_cast<std::int32_t>(std::lround(steps));
      std::memcpy(bias.bytes.data() + row * sizeof stored, &stored, sizeof stored);
    }
  }

  void AddSteps(const std::string& name, std::uint64_t row, std::int32_t steps) {
    std::string& bytes = made_.checkpoint.Find(Module(name) + "quant_bias").bytes;
    std::int32_t stored = 0;
    std::memcpy(&stored, bytes.data() + row * sizeof stored, sizeof stored);
    stored += steps;
    std::memcpy(bytes.data() + row * sizeof stored, &stored, sizeof stored);
  }

  // Both add a tensor.
  void WriteMade() {
    Made made = made_;
    Write(made);
  }
  Error Refused() {
    Made made = made_;
    return Refusal(made);
  }

  TinyTensor& Norm() { return made_.checkpoint.Find(kNorm); }

  Made made_;
  std::vector<float> shift_;
};

TEST_F(ShiftedNormTest, WeightsAndNormAloneSayTheSame) {
  WriteMade();
  const convert::ConversionReport report = Command().Run();
  EXPECT_EQ(report.converted_tensors, 2U);
  const auto tensors = ReadCheckpoint(out());
  EXPECT_FALSE(tensors.contains(kNorm));
  EXPECT_TRUE(tensors.contains(std::string(kLayer) + "input_layernorm.weight"));
  EXPECT_EQ(tensors.at(Module("q_a_proj.weight")).dtype, Dtype::kBF16);
  EXPECT_EQ(tensors.size(), 4U);
  bool listed = false;
  for (const convert::ReportFact& fact : report.facts) {
    if (fact.member != "dropped") continue;
    listed = true;
    EXPECT_THAT(fact.names, ::testing::Contains(kNorm));
  }
  EXPECT_TRUE(listed);
}

TEST_F(ShiftedNormTest, TheWayBackHasTheBiasAgain) {
  WriteMade();
  Command().Run();
  const Conversion back(out(), dir_ / "back", convert::QuantizeConversion({.scales_from = in()}));
  back.Run();
  auto tree = ReadTree(dir_ / "back");
  tree.erase("checkpoint.manifest.json");
  EXPECT_TRUE(tree == ReadTree(in()));
}

TEST_F(ShiftedNormTest, ABiasBeyondTheShiftIsRefused) {
  double magnitude = 0;
  for (const float value : shift_) magnitude += std::abs(value);
  const auto bound = static_cast<std::int32_t>(magnitude / kInputScale);
  AddSteps("q_a_proj.", 5, bound / 4);  // within what rounding may be
  WriteMade();
  Command().Run();
  std::filesystem::remove_all(out());
  AddSteps("kv_a_proj_with_mqa.", 7, 2 * bound);
  EXPECT_THAT(Refused().message(),
              AllOf(HasSubstr("kv_a_proj_with_mqa.quant_bias' holds a bias of the module, in row "
                              "7 "),
                    HasSubstr("beyond what input_offset and model.layers.3.input_layernorm.bias "
                              "takes")));
}

TEST_F(ShiftedNormTest, AShiftTheOtherWayIsRefused) {
  for (char* sign = Norm().bytes.data() + 3; sign < Norm().bytes.data() + Norm().bytes.size();
       sign += sizeof(float)) {
    *sign = static_cast<char>(*sign ^ '\x80');
  }
  EXPECT_THAT(Refused().message(), HasSubstr(".quant_bias' holds a bias of the module, in row 0 "));
}

TEST_F(ShiftedNormTest, ALayerThatDoesNotTakeItBackIsRefused) {
  made_.checkpoint.Add(kTinyShard1, Module("indexer.wk.weight"), Dtype::kBF16, {8, kCols});
  EXPECT_THAT(Refused().message(),
              AllOf(HasSubstr("input_layernorm.bias' shifts the activations of "
                              "'model.layers.3.self_attn.indexer.wk', which has no quant_bias")));
  // No shift, nothing to take back.
  Norm().bytes.assign(Norm().bytes.size(), '\0');
  for (const char* const name : {"q_a_proj.", "kv_a_proj_with_mqa."}) {
    const std::string codes = made_.checkpoint.Find(Module(name) + "weight").bytes;
    std::string& bias = made_.checkpoint.Find(Module(name) + "quant_bias").bytes;
    for (std::uint64_t row = 0; row < kRows; ++row) {
      std::int32_t stored = 0;
      for (std::uint64_t col = 0; col < kCols; ++col) {
        stored -=
            static_cast<std::int32_t>(kOffset) * static_cast<std::int8_t>(codes[row * kCols + col]);
      }
      std::memcpy(bias.data() + row * sizeof stored, &stored, sizeof stored);
    }
  }
  WriteMade();
  Command().Run();
  EXPECT_FALSE(ReadCheckpoint(out()).contains(kNorm));
}

TEST_F(ShiftedNormTest, UnusableShiftsAreRefused) {
  const std::string sound = Norm().bytes;
  Norm().bytes.replace(40, 4, std::string("\0\0\xC0\x7F", 4));
  EXPECT_THAT(Refused().message(), HasSubstr("input_layernorm.bias' holds a value that"));
  Norm().bytes = sound + sound;
  Norm().shape = {2 * kCols};
  EXPECT_THAT(Refused().message(),
              HasSubstr("has 512 values, and 'model.layers.3.self_attn.q_a_proj' has 256 columns"));
  Norm().bytes = sound;
  Norm().shape = {kCols};
  SetFloat(made_.checkpoint.Find(Module("q_a_proj.input_scale")), -1);
  EXPECT_THAT(Refused().message(),
              HasSubstr("q_a_proj.quant_bias' takes back a shift of activations, and there is no "
                        "input_scale"));
}

}  // namespace
}  // namespace dsv3::testing
