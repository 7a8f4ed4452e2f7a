#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/dequantize.h"
#include "convert/recipes/train_to_infer.h"
#include "formats/base64.h"
#include "tests/convert/recipes/to_gguf_test.h"

// Models whose tensors or tokenizer come in another form.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using formats::GgufType;
using ::testing::HasSubstr;

class ToGgufFormsTest : public ToGgufTest {
 protected:
  convert::ConversionReport Convert(const fs::path& in, const char* name, bool tokenizer = false) {
    return Command(in, dir_ / name, GgufType::kQ8_0, {.no_tokenizer = !tokenizer}).Run();
  }
};

TEST_F(ToGgufFormsTest, SplitKeysAndValuesGiveTheSameTensors) {
  const fs::path in = Bf16Sample();
  Conversion(in, dir_ / "split", convert::TrainToInferConversion({.mla = convert::MlaForm::kSplit}))
      .Run();
  const convert::ConversionReport a = Convert(in, "a.gguf");
  const convert::ConversionReport b = Convert(dir_ / "split", "b.gguf");
  EXPECT_TRUE(ReadGguf(dir_ / "a.gguf").bytes == ReadGguf(dir_ / "b.gguf").bytes);
  EXPECT_EQ(b.converted_tensors, a.converted_tensors + 4);  // two of each layer's one
}

// transformers keeps the experts of a layer in two tensors.
TEST_F(ToGgufFormsTest, FusedExpertsGiveTheSameTensors) {
  const fs::path in = Bf16Sample();
  auto tensors = ReadCheckpoint(in);
  for (int layer = 1; layer <= kMainLayers; ++layer) {
    const std::string of = "model.layers." + std::to_string(layer) + ".mlp.experts.";
    HeldTensor gate_up;
    HeldTensor down;
    for (int expert = 0; expert < 8; ++expert) {
      const auto take = [&](const char* matrix, HeldTensor& fused) {
        const std::string name = of + std::to_string(expert) + "." + matrix + ".weight";
        const HeldTensor& one = tensors.at(name);
        fused.dtype = one.dtype;
        fused.shape = {8, one.shape[0], one.shape[1]};
        fused.bytes += one.bytes;
        tensors.erase(name);
      };
      take("gate_proj", gate_up);
      take("up_proj", gate_up);
      take("down_proj", down);
    }
    gate_up.shape[1] *= 2;
    tensors[of + "gate_up_proj"] = gate_up;
    tensors[of + "down_proj"] = down;
  }
  WriteTensors(tensors, in, dir_ / "fused");
  Convert(in, "a.gguf");
  Convert(dir_ / "fused", "b.gguf");
  EXPECT_TRUE(ReadGguf(dir_ / "a.gguf").bytes == ReadGguf(dir_ / "b.gguf").bytes);
}

TEST_F(ToGgufFormsTest, CodesWithZeroPointsGiveTheirValues) {
  MakeSample(convert::SamplePreset::kAwq, 1, dir_ / "in");
  Conversion(dir_ / "in", dir_ / "bf16", convert::DequantizeConversion()).Run();
  for (const char* const name : {"in", "bf16"}) {
    Command(dir_ / name, dir_ / (std::string(name) + ".gguf"), GgufType::kBF16,
            {.no_tokenizer = true})
        .Run();
  }
  EXPECT_TRUE(ReadGguf(dir_ / "in.gguf").bytes == ReadGguf(dir_ / "bf16.gguf").bytes);
}

TEST_F(ToGgufFormsTest, BiasesAmongCodesAreRefused) {
  const fs::path in = Bf16Sample();
  auto tensors = ReadCheckpoint(in);
  const std::string module = "model.layers.0.self_attn.q_a_proj.";
  const std::string one("\0\0\x80?", 4);
  std::string ones;
  for (int row = 0; row < 192; ++row) ones += one;
  tensors[module + "weight"] = {formats::Dtype::kI8, {192, 256}, std::string(192 * 256, '\1')};
  tensors[module + "deq_scale"] = {formats::Dtype::kF32, {192}, ones};
  tensors[module + "input_scale"] = {formats::Dtype::kF32, {1}, one};
  tensors[module + "input_offset"] = {formats::Dtype::kF32, {1}, std::string(4, '\0')};
  HeldTensor& bias = tensors[module + "quant_bias"];
  bias = {formats::Dtype::kI32, {192}, std::string(192 * 4, '\0')};
  WriteTensors(tensors, in, dir_ / "sound");
  Convert(dir_ / "sound", "a.gguf");
  bias.bytes[3 * 4] = '\x64';
  WriteTensors(tensors, in, dir_ / "biased");
  EXPECT_THAT(ErrorOf([&] { Convert(dir_ / "biased", "b.gguf"); }).message(),
              HasSubstr("q_a_proj.quant_bias' holds a bias of the module, in row 3 100 steps"));
}

TEST_F(ToGgufFormsTest, KimisTokensComeFromTiktoken) {
  MakeSample(convert::SamplePreset::kTinyKimi, 1, dir_ / "in");
  fs::remove(dir_ / "in" / "tokenizer.json");
  std::string text;
  std::vector<std::string> tokens;
  for (const char* const token : {"a", "b", " ", "ab", " ab"}) tokens.emplace_back(token);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    text += formats::EncodeBase64(tokens[i]) + " " + std::to_string(i) + "\n";
  }
  WriteFile(dir_ / "in" / "tiktoken.model", text);
  nlohmann::json own = Json(dir_ / "in" / "tokenizer_config.json");
  own["added_tokens_decoder"]["6"] = {{"content", "[EOS]"}, {"special", true}};
  WriteFile(dir_ / "in" / "tokenizer_config.json", own.dump());
  Convert(dir_ / "in", "m.gguf", true);
  const File file = ReadGguf(dir_ / "m.gguf");
  EXPECT_EQ(file.Key<std::string>("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(file.Key<std::string>("tokenizer.ggml.pre"), "kimi-k2");
  EXPECT_THAT(file.Key<std::vector<std::string>>("tokenizer.ggml.merges"),
              ::testing::ElementsAre("a b", "\u0120 ab"));
  const auto names = file.Key<std::vector<std::string>>("tokenizer.ggml.tokens");
  const auto types = file.Key<std::vector<std::int32_t>>("tokenizer.ggml.token_type");
  ASSERT_EQ(names.size(), 384U);
  EXPECT_EQ(names[4], "\u0120ab");
  EXPECT_EQ(types[4], 1);
  EXPECT_EQ(names[5], "<|reserved_token_5|>");
  EXPECT_EQ(names[6], "[EOS]");
  EXPECT_EQ(types[6], 3);
  EXPECT_EQ(names[260], "<|reserved_token_260|>");
  EXPECT_EQ(names[261], "[PAD261]");
  EXPECT_EQ(types[261], 5);
  EXPECT_EQ(file.Key<std::uint32_t>("tokenizer.ggml.eos_token_id"), 1U);  // config.json's
  WriteFile(dir_ / "in" / "tiktoken.model", "YQ== 0\nYg== 2\n");
  EXPECT_THAT(ErrorOf([&] { Convert(dir_ / "in", "n.gguf", true); }).message(),
              HasSubstr("tiktoken.model: it leaves numbers out"));
}

}  // namespace
}  // namespace dsv3::testing
