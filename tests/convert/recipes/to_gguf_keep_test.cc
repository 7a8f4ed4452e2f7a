#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/quantize.h"
#include "quant/codec.h"
#include "tests/convert/recipes/to_gguf_test.h"

// --keep-4bit.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::SamplePreset;
using formats::GgufType;
using ::testing::HasSubstr;

class ToGgufKeepTest : public ToGgufTest {
 protected:
  static Conversion Keeping(const fs::path& input, const fs::path& output, GgufType type) {
    return Command(input, output, type, {.keep_4bit = true, .no_tokenizer = true});
  }

  // A checkpoint of one shard whose weights are quantised anew.
  fs::path Quantised(convert::QuantizeTo to, convert::QuantizeModules modules) {
    MakeSample(SamplePreset::kKimiInt4, 1, dir_ / "int4");
    Conversion(dir_ / "int4", dir_ / "quantised",
               convert::QuantizeConversion({.to = to, .modules = modules}))
        .Run();
    return dir_ / "quantised";
  }

  static std::string RefusalOf(const Conversion& command) {
    const Error error = ErrorOf([&] { command.Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    EXPECT_FALSE(fs::exists(command.request.output));
    return error.message();
  }

  // What ggml reads from a block of 4-bit codes.
  static std::vector<float> Values(GgufType type, const std::string& bytes) {
    constexpr int kTwiceE2M1[] = {0, 1, 2, 3, 4, 6, 8, 12};
    const std::size_t head = type == GgufType::kQ4_0 ? 2 : 1;
    std::vector<float> values;
    for (std::size_t at = 0; at < bytes.size(); at += head + 16) {
      std::uint16_t half = 0;
      std::memcpy(&half, bytes.data() + at, head);
      const auto value = [&](unsigned code) {
        if (type == GgufType::kQ4_0) {
          return quant::DecodeF16(half) * static_cast<float>(static_cast<int>(code) - 8);
        }
        const int twice = kTwiceE2M1[code % 8] * (code < 8 ? 1 : -1);
        return std::ldexp(static_cast<float>(twice), half - 128);
      };
      for (const unsigned shift : {0U, 4U}) {
        for (std::size_t j = 0; j < 16; ++j) {
          values.push_back(value(static_cast<unsigned char>(bytes[at + head + j]) >> shift & 15U));
        }
      }
    }
    return values;
  }

  // Keeps, and compares with the same model in F32: 4-bit weights have equal values, all others
  // equal bytes.
  void ExpectExact(const fs::path& in, GgufType kept, std::uint32_t file_type) {
    Keeping(in, dir_ / "kept.gguf", GgufType::kF32).Run();
    Command(in, dir_ / "whole.gguf", GgufType::kF32, {.no_tokenizer = true}).Run();
    const File file = ReadGguf(dir_ / "kept.gguf");
    const File exact = ReadGguf(dir_ / "whole.gguf");
    EXPECT_EQ(file.Key<std::uint32_t>("general.file_type"), file_type);
    std::size_t tensors = 0;
    for (const formats::GgufTensor& tensor : exact.header.tensors) {
      SCOPED_TRACE(tensor.name);
      const std::string& expected = exact.bytes.at(tensor.name);
      if (tensor.name.find("_exps.") == std::string::npos) {
        EXPECT_TRUE(file.bytes.at(tensor.name) == expected);
        continue;
      }
      EXPECT_EQ(file.Find(tensor.name).type, kept);
      EXPECT_EQ(file.Find(tensor.name).shape, tensor.shape);
      std::vector<float> floats(expected.size() / sizeof(float));
      std::memcpy(floats.data(), expected.data(), expected.size());
      EXPECT_TRUE(Values(kept, file.bytes.at(tensor.name)) == floats);
      ++tensors;
    }
    EXPECT_EQ(tensors, 6U);  // three of each of two layers
  }
};

TEST_F(ToGgufKeepTest, Int4BecomesQ4Exactly) {
  MakeSample(SamplePreset::kKimiInt4, 1, dir_ / "in");
  ExpectExact(dir_ / "in", GgufType::kQ4_0, 2);
}

TEST_F(ToGgufKeepTest, Mxfp4StaysMxfp4) {
  ExpectExact(Quantised(convert::QuantizeTo::kMxFp4, convert::QuantizeModules::kExperts),
              GgufType::kMxfp4, 38);
}

TEST_F(ToGgufKeepTest, RefusesAScaleThatIsNoHalf) {
  MakeSample(SamplePreset::kKimiInt4, 1, dir_ / "in");
  auto tensors = ReadCheckpoint(dir_ / "in");
  const std::string name = "model.layers.2.mlp.experts.3.up_proj.weight_scale";
  // 2^-18 (1 + 2^-7), between two F16; eight groups in a row.
  tensors.at(name).bytes.replace(2 * 11, 2, std::string("\x81\x36", 2));
  WriteTensors(tensors, dir_ / "in", dir_ / "spoilt");
  const std::string message = RefusalOf(Keeping(dir_ / "spoilt", dir_ / "m.gguf", GgufType::kBF16));
  EXPECT_THAT(message, HasSubstr("'" + name + "' is"));
  EXPECT_THAT(message, HasSubstr("at [1, 3], which is no F16"));
  Command(dir_ / "spoilt", dir_ / "m.gguf", GgufType::kBF16, {.no_tokenizer = true}).Run();
}

TEST_F(ToGgufKeepTest, RefusesOtherFormsOfFourBits) {
  MakeSample(SamplePreset::kNvFp4, 1, dir_ / "in");
  const std::string message = RefusalOf(Keeping(dir_ / "in", dir_ / "m.gguf", GgufType::kBF16));
  EXPECT_THAT(message, HasSubstr("model.layers.1.mlp.experts.0.gate_proj.weight"));
  EXPECT_THAT(message, HasSubstr("NVFP4"));
  EXPECT_THAT(message, HasSubstr("in groups of 16, and --keep-4bit keeps"));
  EXPECT_THAT(message, HasSubstr("llama.cpp's deepseek2 does not multiply experts with the scale"));
  MakeSample(SamplePreset::kAwq, 1, dir_ / "awq");
  const std::string awq = RefusalOf(Keeping(dir_ / "awq", dir_ / "m.gguf", GgufType::kBF16));
  EXPECT_THAT(awq, HasSubstr("in groups of 64 with zero points, and --keep-4bit keeps"));
  EXPECT_THAT(awq, ::testing::Not(HasSubstr("llama.cpp")));
}

TEST_F(ToGgufKeepTest, RefusesFourBitsThatAreCut) {
  const fs::path in = Quantised(convert::QuantizeTo::kInt4, convert::QuantizeModules::kLinear);
  EXPECT_THAT(RefusalOf(Keeping(in, dir_ / "m.gguf", GgufType::kBF16)),
              HasSubstr("kv_b_proj.weight_packed' holds 4-bit weights, and a GGUF file has them "
                        "transposed"));
}

TEST_F(ToGgufKeepTest, RefusesExpertsOfSeveralTypes) {
  MakeSample(SamplePreset::kKimiInt4, 1, dir_ / "in");
  auto tensors = ReadCheckpoint(dir_ / "in");
  const std::string expert = "model.layers.1.mlp.experts.5.down_proj.weight";
  for (const char* const part : {"_packed", "_scale", "_shape"}) tensors.erase(expert + part);
  tensors[expert] = {formats::Dtype::kBF16, {256, 128}, std::string(2 * 256 * 128, '\0')};
  WriteTensors(tensors, dir_ / "in", dir_ / "mixed");
  EXPECT_THAT(RefusalOf(Keeping(dir_ / "mixed", dir_ / "m.gguf", GgufType::kF16)),
              HasSubstr("'" + expert +
                        "' becomes F16 of shape [256, 128], and "
                        "'model.layers.1.mlp.experts.0.down_proj.weight_packed' Q4_0"));
}

TEST_F(ToGgufKeepTest, RefusesAModelWithNothingToKeep) {
  EXPECT_THAT(RefusalOf(Keeping(Bf16Sample(), dir_ / "m.gguf", GgufType::kF16)),
              HasSubstr("nothing for --keep-4bit to keep"));
}

}  // namespace
}  // namespace dsv3::testing
