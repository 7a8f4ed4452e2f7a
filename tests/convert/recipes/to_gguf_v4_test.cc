#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/dequantize.h"
#include "tests/convert/recipes/to_gguf_test.h"

// DeepSeek-V4, architecture deepseek4.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using formats::GgufType;
using ::testing::HasSubstr;

class ToGgufV4Test : public ToGgufTest {
 protected:
  void SetUp() override {
    in_ = dir_ / "v4";
    MakeSample(convert::SamplePreset::kV4, 1, in_);
  }
  std::string Refusal() {
    const Error error = ErrorOf([&] { Command(in_, dir_ / "m.gguf", GgufType::kF16).Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    return error.message();
  }

  fs::path in_;
};

TEST_F(ToGgufV4Test, EachTensorHasTheTypeThatLlamaCppGivesIt) {
  const auto model = ReadCheckpoint(in_);
  const convert::ConversionReport report =
      Command(in_, dir_ / "m.gguf", GgufType::kQ8_0, {.keep_4bit = true}).Run();
  const File file = ReadGguf(dir_ / "m.gguf");
  EXPECT_EQ(file.Key<std::string>("general.architecture"), "deepseek4");
  EXPECT_EQ(file.Key<std::uint32_t>("general.file_type"), 38U);
  const auto expect = [&](const std::string& gguf, GgufType type, const std::string& name) {
    SCOPED_TRACE(gguf);
    EXPECT_EQ(file.Find(gguf).type, type);
    if (type == GgufType::kQ8_0 || type == GgufType::kMxfp4) return;
    const HeldTensor& tensor = model.at(name);
    EXPECT_EQ(file.Find(gguf).shape, tensor.shape);
    const bool wide = type == GgufType::kF32 && tensor.dtype == formats::Dtype::kBF16;
    EXPECT_TRUE(file.bytes.at(gguf) == (wide ? Widened(tensor).bytes : tensor.bytes));
  };
  expect("token_embd.weight", GgufType::kBF16, "embed.weight");
  expect("output.weight", GgufType::kBF16, "head.weight");
  expect("output_norm.weight", GgufType::kF32, "norm.weight");
  expect("output_hc_fn.weight", GgufType::kF32, "hc_head_fn");
  expect("output_hc_scale.weight", GgufType::kF32, "hc_head_scale");
  expect("blk.2.attn_q_a.weight", GgufType::kQ8_0, "");
  expect("blk.2.attn_output_b.weight", GgufType::kQ8_0, "");
  expect("blk.2.ffn_down_shexp.weight", GgufType::kQ8_0, "");
  expect("blk.2.ffn_up_exps.weight", GgufType::kMxfp4, "");
  expect("blk.2.attn_sinks.weight", GgufType::kF32, "layers.2.attn.attn_sink");
  expect("blk.2.attn_kv_a_norm.weight", GgufType::kF32, "layers.2.attn.kv_norm.weight");
  expect("blk.2.hc_ffn_fn.weight", GgufType::kF32, "layers.2.hc_ffn_fn");
  expect("blk.2.ffn_gate_inp.weight", GgufType::kBF16, "layers.2.ffn.gate.weight");
  expect("blk.2.attn_compressor_ape.weight", GgufType::kF32, "layers.2.attn.compressor.ape");
  expect("blk.3.attn_compressor_kv.weight", GgufType::kBF16, "layers.3.attn.compressor.wkv.weight");
  expect("blk.2.indexer.proj.weight", GgufType::kBF16, "layers.2.attn.indexer.weights_proj.weight");
  expect("blk.2.indexer_compressor_norm.weight", GgufType::kF32,
         "layers.2.attn.indexer.compressor.norm.weight");
  expect("blk.3.exp_probs_b.bias", GgufType::kF32, "layers.3.ffn.gate.bias");
  EXPECT_FALSE(file.bytes.contains("blk.2.exp_probs_b.bias"));
  EXPECT_FALSE(file.bytes.contains("blk.3.indexer.proj.weight"));

  // Each token's experts, in 32 bits.
  const HeldTensor& table = model.at("layers.1.ffn.gate.tid2eid");
  EXPECT_EQ(file.Find("blk.1.ffn_gate_tid2eid.weight").type, GgufType::kI32);
  const std::string& narrow = file.bytes.at("blk.1.ffn_gate_tid2eid.weight");
  ASSERT_EQ(2 * narrow.size(), table.bytes.size());
  for (std::size_t i = 0; i < narrow.size() / 4; ++i) {
    std::int64_t wide = 0;
    std::int32_t value = 0;
    std::memcpy(&wide, table.bytes.data() + 8 * i, sizeof wide);
    std::memcpy(&value, narrow.data() + 4 * i, sizeof value);
    ASSERT_EQ(value, wide);
  }

  const std::vector<std::string>& left = report.facts.front().names;
  EXPECT_FALSE(left.empty());
  EXPECT_TRUE(std::all_of(left.begin(), left.end(),
                          [](const std::string& name) { return name.starts_with("mtp.0."); }));
}

TEST_F(ToGgufV4Test, CodesBecomeTheValuesOfDequantize) {
  Conversion(in_, dir_ / "bf16", convert::DequantizeConversion()).Run();
  Command(in_, dir_ / "a.gguf", GgufType::kBF16).Run();
  Command(dir_ / "bf16", dir_ / "b.gguf", GgufType::kBF16).Run();
  EXPECT_TRUE(ReadGguf(dir_ / "a.gguf").bytes == ReadGguf(dir_ / "b.gguf").bytes);
}

TEST_F(ToGgufV4Test, KeysSayTheModel) {
  const nlohmann::json config = Json(in_ / "config.json");
  Command(in_, dir_ / "m.gguf", GgufType::kF16).Run();
  const File file = ReadGguf(dir_ / "m.gguf");
  const auto number = [&](const std::string& key) {
    return file.Key<std::uint32_t>("deepseek4." + key);
  };
  EXPECT_EQ(number("block_count"), 5U);
  EXPECT_EQ(number("embedding_length_out"), 4 * number("embedding_length"));
  EXPECT_EQ(number("attention.key_length"), config["head_dim"].get<std::uint32_t>());
  EXPECT_EQ(number("attention.sliding_window"), 128U);
  EXPECT_EQ(number("attention.output_group_count"), 4U);
  EXPECT_EQ(number("expert_gating_func"), 4U);
  EXPECT_EQ(number("hash_layer_count"), 3U);
  EXPECT_EQ(number("hyper_connection.sinkhorn_iterations"), 20U);
  EXPECT_EQ(file.Key<std::vector<std::int32_t>>("deepseek4.attention.compress_ratios"),
            (std::vector<std::int32_t>{0, 0, 4, 128, 4, 0}));
  EXPECT_EQ(file.Key<std::vector<float>>("deepseek4.swiglu_clamp_exp"),
            std::vector<float>(5, 10.0F));
  EXPECT_EQ(file.Key<float>("deepseek4.attention.compress_rope_freq_base"), 160000.0F);
  EXPECT_EQ(file.Key<std::string>("deepseek4.rope.scaling.type"), "yarn");
  EXPECT_EQ(formats::FindGgufKey(file.header.keys, "deepseek4.vocab_size"), nullptr);
  Command(in_, dir_ / "bare.gguf", GgufType::kF16, {.no_tokenizer = true}).Run();
  EXPECT_EQ(ReadGguf(dir_ / "bare.gguf").Key<std::uint32_t>("deepseek4.vocab_size"), 384U);
}

TEST_F(ToGgufV4Test, RefusesWhatLlamaCppDoesNotTake) {
  const Conversion command =
      Command(in_, dir_ / "m.gguf", GgufType::kF16, {.mtp = convert::GgufMtp::kKeep});
  EXPECT_THAT(ErrorOf([&] { command.Run(); }).message(),
              HasSubstr("the MTP layers of V4 in a file of their own"));
  const std::string config = ReadFile(in_ / "config.json");
  const auto refusal_of = [&](const char* field, const nlohmann::json& value) {
    WriteFile(in_ / "config.json", config);
    SetConfig(in_, field, value);
    return Refusal();
  };
  EXPECT_THAT(refusal_of("scoring_func", "sigmoid"), HasSubstr("scoring_func is 'sigmoid'"));
  EXPECT_THAT(refusal_of("swiglu_limit", "ten"), HasSubstr("'swiglu_limit' must be a number"));
  EXPECT_THAT(refusal_of("sliding_window", nullptr), HasSubstr("'sliding_window'"));
  EXPECT_THAT(refusal_of("rope_scaling", {{"type", "linear"}, {"factor", 2.0}}),
              HasSubstr("scaled by \"linear\""));
  EXPECT_THAT(refusal_of("rope_scaling", {{"type", "yarn"}}),
              HasSubstr("lacks the field 'factor'"));
  EXPECT_THAT(refusal_of("tie_word_embeddings", true), HasSubstr("needs a head"));
}

TEST_F(ToGgufV4Test, RefusesCompressorsOfOtherLengths) {
  auto tensors = ReadCheckpoint(in_);
  HeldTensor& ape = tensors.at("layers.3.attn.compressor.ape");
  ape.shape[0] = 64;
  ape.bytes.resize(ape.bytes.size() / 2);
  WriteTensors(tensors, in_, dir_ / "other");
  in_ = dir_ / "other";
  SetConfig(in_, "compress_ratios", {0, 0, 4, 64, 4, 0});
  EXPECT_THAT(Refusal(), HasSubstr("compress_ratios has 64 for layer 3"));
}

TEST_F(ToGgufV4Test, RefusesATableOfFloats) {
  auto tensors = ReadCheckpoint(in_);
  HeldTensor& table = tensors.at("layers.0.ffn.gate.tid2eid");
  table.dtype = formats::Dtype::kF64;
  WriteTensors(tensors, in_, dir_ / "floats");
  in_ = dir_ / "floats";
  const Conversion command = Command(in_, dir_ / "m.gguf", GgufType::kF16, {.no_tokenizer = true});
  EXPECT_THAT(ErrorOf([&] { command.Run(); }).message(),
              HasSubstr("'layers.0.ffn.gate.tid2eid' is F64, and was to be a table of integers"));
}

}  // namespace
}  // namespace dsv3::testing
