#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/recipes/to_gguf_test.h"

// The architectures of llama.cpp, and MTP layers.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::GgufMtp;
using convert::SamplePreset;
using formats::GgufType;
using formats::Shape;
using ::testing::HasSubstr;

constexpr char kIndexer[] = "model.layers.1.self_attn.indexer.";

class ToGgufArchitectureTest : public ToGgufTest {
 protected:
  convert::ConversionReport Convert(const fs::path& in, std::optional<GgufMtp> mtp = std::nullopt) {
    Conversion command = Command(in, dir_ / "m.gguf", GgufType::kBF16, {.mtp = mtp});
    command.request.run.overwrite = true;
    return command.Run();
  }
  std::string RefusalOf(const fs::path& in, std::optional<GgufMtp> mtp = std::nullopt) {
    const Error error = ErrorOf([&] { Convert(in, mtp); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    return error.message();
  }
  File Made() const { return ReadGguf(dir_ / "m.gguf"); }
};

TEST_F(ToGgufArchitectureTest, TheMtpLayerIsTheLastBlock) {
  const fs::path in = Bf16Sample();
  const auto model = ReadCheckpoint(in);
  const convert::ConversionReport report = Convert(in, GgufMtp::kKeep);
  EXPECT_TRUE(report.facts.front().names.empty());  // nothing is left out
  const File file = Made();
  EXPECT_EQ(file.Key<std::uint32_t>("deepseek2.block_count"), 5U);
  EXPECT_EQ(file.Key<std::uint32_t>("deepseek2.nextn_predict_layers"), 1U);
  const std::string mtp = kMtpLayer;
  const auto same = [&](const std::string& gguf, const std::string& name) {
    EXPECT_TRUE(file.bytes.at("blk.4." + gguf) == model.at(mtp + name).bytes) << gguf;
  };
  same("nextn.eh_proj.weight", "eh_proj.weight");
  same("nextn.embed_tokens.weight", "embed_tokens.weight");
  same("nextn.shared_head_head.weight", "shared_head.head.weight");
  same("attn_q_a.weight", "self_attn.q_a_proj.weight");
  EXPECT_EQ(file.bytes.at("blk.4.nextn.enorm.weight"),
            Widened(model.at(mtp + "enorm.weight")).bytes);
  EXPECT_EQ(file.bytes.at("blk.4.nextn.hnorm.weight"),
            Widened(model.at(mtp + "hnorm.weight")).bytes);
  EXPECT_EQ(file.bytes.at("blk.4.nextn.shared_head_norm.weight"),
            Widened(model.at(mtp + "shared_head.norm.weight")).bytes);
  EXPECT_EQ(file.Find("blk.4.ffn_up_exps.weight").shape.front(), 8U);
}

TEST_F(ToGgufArchitectureTest, V3DropsItsMtpLayerUnlessAsked) {
  const fs::path in = Bf16Sample();
  Convert(in);
  EXPECT_EQ(Made().Key<std::uint32_t>("deepseek2.block_count"), 4U);
  EXPECT_EQ(formats::FindGgufKey(Made().header.keys, "deepseek2.nextn_predict_layers"), nullptr);
  const std::string whole = ReadFile(dir_ / "m.gguf");
  Convert(in, GgufMtp::kDrop);
  EXPECT_TRUE(ReadFile(dir_ / "m.gguf") == whole);
}

TEST_F(ToGgufArchitectureTest, RefusesToKeepMtpLayersThatLlamaCppDoesNotTake) {
  MakeSample(SamplePreset::kTinyKimi, 1, dir_ / "kimi");
  EXPECT_THAT(RefusalOf(dir_ / "kimi", GgufMtp::kKeep), HasSubstr("the model has no MTP layer"));
  const fs::path in = Bf16Sample();
  auto tensors = ReadCheckpoint(in);
  const auto one = tensors;
  for (const auto& [name, tensor] : one) {
    if (name.starts_with(kMtpLayer)) {
      tensors["model.layers.5." + name.substr(std::string(kMtpLayer).size())] = tensor;
    }
  }
  WriteTensors(tensors, in, dir_ / "two");
  SetConfig(dir_ / "two", "num_nextn_predict_layers", 2);
  EXPECT_THAT(RefusalOf(dir_ / "two", GgufMtp::kKeep),
              HasSubstr("the model has 2 MTP layers, and llama.cpp takes one"));
}

TEST_F(ToGgufArchitectureTest, V32HasItsIndexerAndItsMtpLayer) {
  MakeSample(SamplePreset::kV32, 1, dir_ / "v32");
  Conversion(dir_ / "v32", dir_ / "bf16").Run();
  const auto model = ReadCheckpoint(dir_ / "bf16");
  Convert(dir_ / "bf16");
  const File file = Made();
  EXPECT_EQ(file.Key<std::string>("general.architecture"), "deepseek32");
  EXPECT_EQ(file.Key<std::uint32_t>("deepseek32.block_count"), 5U);
  EXPECT_EQ(file.Key<std::uint32_t>("deepseek32.nextn_predict_layers"), 1U);
  EXPECT_EQ(file.Key<std::uint32_t>("deepseek32.attention.indexer.head_count"), 2U);
  EXPECT_EQ(file.Key<std::uint32_t>("deepseek32.attention.indexer.key_length"), 64U);
  EXPECT_EQ(file.Key<std::uint32_t>("deepseek32.attention.indexer.top_k"), 32U);
  EXPECT_EQ(file.bytes.at("blk.1.indexer.attn_q_b.weight"),
            model.at(kIndexer + std::string("wq_b.weight")).bytes);
  EXPECT_EQ(file.bytes.at("blk.1.indexer.attn_k.weight"),
            model.at(kIndexer + std::string("wk.weight")).bytes);
  EXPECT_EQ(file.Find("blk.1.indexer.proj.weight").type, GgufType::kF32);
  EXPECT_EQ(file.bytes.at("blk.1.indexer.proj.weight"),
            Widened(model.at(kIndexer + std::string("weights_proj.weight"))).bytes);
  EXPECT_EQ(file.bytes.at("blk.1.indexer.k_norm.weight"),
            model.at(kIndexer + std::string("k_norm.weight")).bytes);
  EXPECT_EQ(file.bytes.at("blk.1.indexer.k_norm.bias"),
            model.at(kIndexer + std::string("k_norm.bias")).bytes);
  EXPECT_TRUE(file.bytes.contains("blk.4.nextn.eh_proj.weight"));
  Convert(dir_ / "bf16", GgufMtp::kDrop);
  EXPECT_EQ(Made().Key<std::uint32_t>("deepseek32.block_count"), 4U);
  EXPECT_FALSE(Made().bytes.contains("blk.4.attn_norm.weight"));
}

TEST_F(ToGgufArchitectureTest, Glm5HasItsLayersWithIndexersListed) {
  MakeSample(SamplePreset::kGlm5, 1, dir_ / "glm");
  Convert(dir_ / "glm");
  const File all = Made();
  EXPECT_EQ(all.Key<std::string>("general.architecture"), "glm-dsa");
  EXPECT_EQ(all.Key<std::uint32_t>("glm-dsa.nextn_predict_layers"), 1U);
  EXPECT_EQ(all.Key<std::string>("tokenizer.ggml.pre"), "glm4");
  EXPECT_EQ(formats::FindGgufKey(all.header.keys, "glm-dsa.attention.indexer.types"), nullptr);
  // GLM-5.2: a layer uses the indexer of one before it.
  auto tensors = ReadCheckpoint(dir_ / "glm");
  std::erase_if(tensors, [](const auto& each) { return each.first.starts_with(kIndexer); });
  WriteTensors(tensors, dir_ / "glm", dir_ / "shared");
  SetConfig(dir_ / "shared", "indexer_types", {"full", "shared", "full", "full"});
  WriteFile(dir_ / "shared" / "tokenizer.json", ReadFile(dir_ / "glm" / "tokenizer.json"));
  Convert(dir_ / "shared");
  EXPECT_EQ(Made().Key<std::vector<bool>>("glm-dsa.attention.indexer.types"),
            (std::vector<bool>{true, false, true, true}));
  EXPECT_FALSE(Made().bytes.contains("blk.1.indexer.attn_k.weight"));
}

TEST_F(ToGgufArchitectureTest, GlmTokensHaveTheirRoles) {
  MakeSample(SamplePreset::kGlm5, 1, dir_ / "glm");
  nlohmann::json tokenizer = Json(dir_ / "glm" / "tokenizer.json");
  int id = 370;
  for (const char* const token : {"[gMASK]", "<|user|>", "<|endoftext|>", "<|observation|>"}) {
    tokenizer["added_tokens"].push_back({{"id", id++}, {"content", token}, {"special", true}});
  }
  WriteFile(dir_ / "glm" / "tokenizer.json", tokenizer.dump());
  Convert(dir_ / "glm");
  const File file = Made();
  EXPECT_EQ(file.Key<std::uint32_t>("tokenizer.ggml.bos_token_id"), 0U);  // the files name it
  EXPECT_EQ(file.Key<std::uint32_t>("tokenizer.ggml.eot_token_id"), 371U);
  EXPECT_EQ(file.Key<std::uint32_t>("tokenizer.ggml.unknown_token_id"), 372U);
  EXPECT_EQ(file.Key<std::uint32_t>("tokenizer.ggml.eom_token_id"), 373U);
}

// llama.cpp wants the key of any model whose number of layers does not tell that it has none.
TEST_F(ToGgufArchitectureTest, AModelWithoutQLoraSaysSo) {
  MakeSample(SamplePreset::kV2Lite, 1, dir_ / "lite");
  Convert(dir_ / "lite");
  EXPECT_EQ(Made().Key<std::uint32_t>("deepseek2.attention.q_lora_rank"), 0U);
  EXPECT_EQ(Made().Key<std::uint32_t>("deepseek2.expert_gating_func"), 1U);
}

TEST_F(ToGgufArchitectureTest, RefusesModelsThatLlamaCppHasNoArchitectureFor) {
  const fs::path in = Bf16Sample();
  SetConfig(in, "model_type", "deepseek_v9");
  EXPECT_THAT(RefusalOf(in), HasSubstr("'deepseek_v9' is not written as GGUF"));
  MakeSample(SamplePreset::kTinyV32, 1, dir_ / "v32");
  SetConfig(dir_ / "v32", "q_lora_rank", nullptr);
  EXPECT_FALSE(RefusalOf(dir_ / "v32").empty());
}

}  // namespace
}  // namespace dsv3::testing
