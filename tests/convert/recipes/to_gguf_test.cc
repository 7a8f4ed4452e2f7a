#include "tests/convert/recipes/to_gguf_test.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/dequantize.h"
#include "convert/recipes/to_gguf.h"
#include "quant/gguf_blocks.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/sanitizers.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using formats::GgufType;
using ::testing::HasSubstr;

TEST_F(ToGgufTest, ABf16ModelIsAsItIs) {
  const fs::path in = Bf16Sample();
  const auto model = ReadCheckpoint(in);
  const convert::ConversionReport report = Command(in, dir_ / "m.gguf", GgufType::kBF16).Run();
  const File file = ReadGguf(dir_ / "m.gguf");
  EXPECT_EQ(report.tensors, file.header.tensors.size());
  EXPECT_EQ(file.header.tensors.front().name, "token_embd.weight");
  EXPECT_EQ(file.header.tensors.back().name, "output.weight");
  const HeldTensor& q_a = model.at("model.layers.1.self_attn.q_a_proj.weight");
  EXPECT_EQ(file.Find("blk.1.attn_q_a.weight").type, GgufType::kBF16);
  EXPECT_EQ(file.Find("blk.1.attn_q_a.weight").shape, q_a.shape);
  EXPECT_EQ(file.bytes.at("blk.1.attn_q_a.weight"), q_a.bytes);
  EXPECT_EQ(file.Find("blk.1.attn_norm.weight").type, GgufType::kF32);
  EXPECT_EQ(file.bytes.at("blk.1.attn_norm.weight"),
            Widened(model.at("model.layers.1.input_layernorm.weight")).bytes);
  EXPECT_EQ(file.Find("blk.1.ffn_gate_inp.weight").type, GgufType::kF32);
  EXPECT_EQ(file.bytes.at("blk.1.exp_probs_b.bias"),
            model.at("model.layers.1.mlp.gate.e_score_correction_bias").bytes);
  std::string experts;
  for (int expert = 0;
       model.contains("model.layers.1.mlp.experts." + std::to_string(expert) + ".down_proj.weight");
       ++expert) {
    experts +=
        model.at("model.layers.1.mlp.experts." + std::to_string(expert) + ".down_proj.weight")
            .bytes;
  }
  EXPECT_EQ(file.bytes.at("blk.1.ffn_down_exps.weight"), experts);
  EXPECT_FALSE(file.bytes.contains("blk.4.attn_norm.weight"));  // of the MTP layer
  ASSERT_EQ(report.facts.front().member, "dropped");
  EXPECT_THAT(report.facts.front().names,
              ::testing::Contains(std::string(kMtpLayer) + "enorm.weight"));
}

TEST_F(ToGgufTest, KeysAndValuesOfAttentionLieApartAndTheKeysAreTransposed) {
  const fs::path in = Bf16Sample();
  const HeldTensor kv_b = ReadCheckpoint(in).at("model.layers.0.self_attn.kv_b_proj.weight");
  Command(in, dir_ / "m.gguf", GgufType::kBF16).Run();
  const File file = ReadGguf(dir_ / "m.gguf");
  const formats::Shape keys = file.Find("blk.0.attn_k_b.weight").shape;
  const formats::Shape values = file.Find("blk.0.attn_v_b.weight").shape;
  ASSERT_EQ(keys.size(), 3U);
  const std::size_t heads = keys[0], lora = keys[1], nope = keys[2], v = values[1];
  EXPECT_EQ(values, (formats::Shape{heads, v, lora}));
  EXPECT_EQ(kv_b.shape, (formats::Shape{heads * (nope + v), lora}));
  const std::string& k_b = file.bytes.at("blk.0.attn_k_b.weight");
  const std::string& v_b = file.bytes.at("blk.0.attn_v_b.weight");
  for (std::size_t head = 0; head < heads; ++head) {
    const std::size_t first = head * (nope + v);
    EXPECT_EQ(v_b.substr(2 * head * v * lora, 2 * v * lora),
              kv_b.bytes.substr(2 * (first + nope) * lora, 2 * v * lora));
    for (std::size_t row = 0; row < nope; ++row) {
      for (std::size_t col = 0; col < lora; col += 7) {
        ASSERT_EQ(k_b.substr(2 * ((head * lora + col) * nope + row), 2),
                  kv_b.bytes.substr(2 * ((first + row) * lora + col), 2));
      }
    }
  }
}

// Codes under another name than the weight's, and a vision tower, which the file does not hold.
TEST_F(ToGgufTest, WeightsInOtherFormsBecomeTheValuesOfDequantize) {
  using convert::SamplePreset;
  for (const SamplePreset preset :
       {SamplePreset::kKimiInt4, SamplePreset::kKimiK25, SamplePreset::kNvFp4}) {
    const fs::path dir = dir_ / std::to_string(static_cast<int>(preset));
    MakeSample(preset, 1, dir / "in");
    Conversion(dir / "in", dir / "bf16", convert::DequantizeConversion()).Run();
    const convert::ToGgufOptions options{.no_tokenizer = true};
    const Conversion of_codes = Command(dir / "in", dir / "a.gguf", GgufType::kBF16, options);
    const convert::ConversionReport report = of_codes.Run();
    Command(dir / "bf16", dir / "b.gguf", GgufType::kBF16, options).Run();
    const File codes = ReadGguf(dir / "a.gguf");
    EXPECT_GT(codes.bytes.size(), 20U);
    EXPECT_TRUE(codes.bytes == ReadGguf(dir / "b.gguf").bytes) << dir;
    const std::vector<std::string>& left = report.facts.front().names;
    const bool has_vision = std::any_of(left.begin(), left.end(), [](const std::string& name) {
      return name.starts_with("vision_tower.");
    });
    EXPECT_EQ(has_vision, preset == SamplePreset::kKimiK25);
  }
}

TEST_F(ToGgufTest, Q8OfFp8IsRoundedOnceAndFallsBackToF16) {
  const fs::path bf16 = Bf16Sample();
  Command(dir_ / "fp8", dir_ / "a.gguf", GgufType::kQ8_0).Run();
  Command(dir_ / "fp8", dir_ / "f32.gguf", GgufType::kF32).Run();
  const File file = ReadGguf(dir_ / "a.gguf");
  const File exact = ReadGguf(dir_ / "f32.gguf");
  std::size_t halves = 0;
  for (const formats::GgufTensor& tensor : file.header.tensors) {
    SCOPED_TRACE(tensor.name);
    const std::string& products = exact.bytes.at(tensor.name);
    std::vector<float> values(products.size() / 4);
    std::memcpy(values.data(), products.data(), products.size());
    if (tensor.type == GgufType::kQ8_0) {
      std::string expected(static_cast<std::size_t>(tensor.bytes), '\0');
      quant::EncodeQ8_0Scalar(values, reinterpret_cast<std::byte*>(expected.data()));
      EXPECT_TRUE(file.bytes.at(tensor.name) == expected);
    } else if (tensor.type == GgufType::kF16) {
      ++halves;
      EXPECT_NE(tensor.shape.back() % 32, 0U);
    } else {
      EXPECT_TRUE(file.bytes.at(tensor.name) == products);
    }
  }
  EXPECT_EQ(halves, 6U);  // down_proj of the experts of three layers, 80 columns
}

TEST_F(ToGgufTest, KeysSayTheModel) {
  const fs::path in = Bf16Sample();
  const nlohmann::json config = Json(in / "config.json");
  Command(in, dir_ / "m.gguf", GgufType::kBF16).Run();
  const File file = ReadGguf(dir_ / "m.gguf");
  const auto number = [&](const std::string& key) {
    return file.Key<std::uint32_t>("deepseek2." + key);
  };
  EXPECT_EQ(file.Key<std::string>("general.architecture"), "deepseek2");
  EXPECT_EQ(file.Key<std::string>("general.name"), "bf16");
  EXPECT_EQ(file.Key<std::uint32_t>("general.file_type"), 32U);
  EXPECT_EQ(file.Key<std::string>("general.size_label"), "8x2.5M");  // of llama.cpp's converter
  EXPECT_EQ(number("block_count"), static_cast<std::uint32_t>(kMainLayers));
  EXPECT_EQ(number("attention.head_count_kv"), 1U);
  EXPECT_EQ(number("attention.key_length"), config["kv_lora_rank"].get<std::uint32_t>() +
                                                config["qk_rope_head_dim"].get<std::uint32_t>());
  EXPECT_EQ(number("expert_count"), config["n_routed_experts"].get<std::uint32_t>());
  EXPECT_EQ(number("expert_gating_func"), 2U);
  EXPECT_EQ(file.Key<std::string>("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(file.Key<std::vector<std::string>>("tokenizer.ggml.tokens").size(),
            config["vocab_size"].get<std::size_t>());
  EXPECT_EQ(file.Key<std::uint32_t>("tokenizer.ggml.bos_token_id"), 0U);
}

TEST_F(ToGgufTest, ATokenizerIsNeededUnlessItIsNotWanted) {
  const fs::path in = Bf16Sample();
  fs::remove(in / "tokenizer.json");
  const Error error = ErrorOf([&] { Command(in, dir_ / "m.gguf", GgufType::kF16).Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("tokenizer.json is missing"));
  EXPECT_THAT(error.message(), HasSubstr("--no-tokenizer"));
  EXPECT_FALSE(fs::exists(dir_ / "m.gguf.partial"));
  Command(in, dir_ / "m.gguf", GgufType::kF16, {.no_tokenizer = true}).Run();
  const File file = ReadGguf(dir_ / "m.gguf");
  EXPECT_EQ(formats::FindGgufKey(file.header.keys, "tokenizer.ggml.tokens"), nullptr);
  EXPECT_EQ(file.Key<std::string>("tokenizer.ggml.model"), "none");
}

TEST_F(ToGgufTest, ReadsTokensMergesAndTheirKinds) {
  const fs::path in = Bf16Sample();
  nlohmann::json tokenizer = Json(in / "tokenizer.json");
  tokenizer["model"]["merges"] = {"a b", nlohmann::json::array({"c d", "e"})};
  tokenizer["added_tokens"].push_back(
      {{"id", 300}, {"content", "\u2581user"}, {"special", false}, {"normalized", true}});
  tokenizer["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers", {{{"type", "Split"}, {"pattern", {{"Regex", "\\p{N}{1,3}"}}}}}}};
  WriteFile(in / "tokenizer.json", tokenizer.dump());
  WriteFile(in / "chat_template.jinja", "{{ hello }}");
  Command(in, dir_ / "m.gguf", GgufType::kF16).Run();
  const File file = ReadGguf(dir_ / "m.gguf");
  const auto tokens = file.Key<std::vector<std::string>>("tokenizer.ggml.tokens");
  const auto types = file.Key<std::vector<std::int32_t>>("tokenizer.ggml.token_type");
  EXPECT_EQ(tokens[300], " user");
  EXPECT_EQ(types[300], 4);
  EXPECT_EQ(types[0], 3);
  EXPECT_EQ(types[3], 1);
  EXPECT_EQ(tokens[301], "[PAD301]");
  EXPECT_EQ(types[301], 5);
  EXPECT_THAT(file.Key<std::vector<std::string>>("tokenizer.ggml.merges"),
              ::testing::ElementsAre("a b", "c\u0120d e"));
  EXPECT_EQ(file.Key<std::string>("tokenizer.ggml.pre"), "deepseek-v3");
}

TEST_F(ToGgufTest, RefusesFaultyTokenizers) {
  const fs::path in = Bf16Sample();
  const nlohmann::json sound = Json(in / "tokenizer.json");
  const auto refusal = [&](const nlohmann::json& tokenizer) {
    WriteFile(in / "tokenizer.json", tokenizer.dump());
    return ErrorOf([&] { Command(in, dir_ / "m.gguf", GgufType::kF16).Run(); }).message();
  };
  nlohmann::json wrong = sound;
  wrong["model"]["type"] = "Unigram";
  EXPECT_THAT(refusal(wrong), HasSubstr("tokenizer.json: its model is not BPE"));
  wrong = sound;
  wrong["model"]["vocab"]["x"] = 1'000'000;
  EXPECT_THAT(refusal(wrong), HasSubstr("token 'x' has the number 1000000"));
  wrong = sound;
  wrong["model"]["vocab"]["zz"] = 5;
  EXPECT_THAT(refusal(wrong), HasSubstr("have the same number, 5"));
  wrong = sound;
  wrong["model"]["merges"] = {7};
  EXPECT_THAT(refusal(wrong), HasSubstr("merge 0 is not two texts"));
}

TEST_F(ToGgufTest, RefusesModelsWithoutAForm) {
  const fs::path in = Bf16Sample();
  const auto refusal = [&] {
    const Error error = ErrorOf([&] { Command(in, dir_ / "m.gguf", GgufType::kF16).Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    return error.message();
  };
  const std::string config = ReadFile(in / "config.json");
  SetConfig(in, "rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}});
  EXPECT_THAT(refusal(), HasSubstr("dynamic"));
  WriteFile(in / "config.json", config);
  SetConfig(in, "max_position_embeddings", nullptr);
  EXPECT_THAT(refusal(), HasSubstr("max_position_embeddings"));
  WriteFile(in / "config.json", config);
  SetConfig(in, "moe_layer_freq", 2);
  EXPECT_FALSE(refusal().empty());
  WriteFile(in / "config.json", config);
  SetConfig(in, "rope_interleave", false);
  EXPECT_THAT(refusal(), HasSubstr("rope_interleave is false"));
  WriteFile(in / "config.json", config);
  SetConfig(in, "topk_group", 4);
  EXPECT_THAT(refusal(), HasSubstr("8 experts in 4 groups (n_group), of which 4 are used"));
  WriteFile(in / "config.json", config);
  auto tensors = ReadCheckpoint(in);
  tensors["model.layers.0.self_attn.o_proj.bias"] =
      tensors.at("model.layers.0.input_layernorm.weight");
  WriteTensors(tensors, in, dir_ / "biased");
  const Error error = ErrorOf([&] {
    Command(dir_ / "biased", dir_ / "m.gguf", GgufType::kF16, {.no_tokenizer = true}).Run();
  });
  EXPECT_THAT(error.message(), HasSubstr("'model.layers.0.self_attn.o_proj.bias' has no name"));
}

// transformers 5 writes such a list into every config.
TEST_F(ToGgufTest, AListOfLayersWithTheDenseOnesFirstIsTheirNumber) {
  const fs::path in = Bf16Sample();
  Command(in, dir_ / "number.gguf", GgufType::kF16).Run();
  SetConfig(in, "mlp_layer_types", {"dense", "sparse", "sparse", "sparse"});
  Command(in, dir_ / "list.gguf", GgufType::kF16).Run();
  EXPECT_EQ(ReadFile(dir_ / "list.gguf"), ReadFile(dir_ / "number.gguf"));
  EXPECT_EQ(ReadGguf(dir_ / "list.gguf").Key<std::uint32_t>("deepseek2.leading_dense_block_count"),
            1U);
}

TEST_F(ToGgufTest, DenseLayersBehindOnesWithExpertsAreRefused) {
  const fs::path in = Bf16Sample();
  auto tensors = ReadCheckpoint(in);
  std::erase_if(tensors,
                [](const auto& tensor) { return tensor.first.starts_with("model.layers.2.mlp."); });
  for (const char* const name : {"gate_proj", "up_proj", "down_proj"}) {
    tensors[fmt::format("model.layers.2.mlp.{}.weight", name)] =
        tensors.at(fmt::format("model.layers.0.mlp.{}.weight", name));
  }
  WriteTensors(tensors, in, dir_ / "mixed");
  SetConfig(dir_ / "mixed", "first_k_dense_replace", nullptr);
  SetConfig(dir_ / "mixed", "mlp_layer_types", {"dense", "sparse", "dense", "sparse"});
  const Error error = ErrorOf([&] {
    Command(dir_ / "mixed", dir_ / "m.gguf", GgufType::kF16, {.no_tokenizer = true}).Run();
  });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("layer 2 has no experts though layer 1 has some"));
}

TEST_F(ToGgufTest, AnExpertThatIsMissingIsNamed) {
  const fs::path in = Bf16Sample();
  auto tensors = ReadCheckpoint(in);
  const std::string name = "model.layers.2.mlp.experts.3.up_proj.weight";
  ASSERT_EQ(tensors.erase(name), 1U);
  WriteTensors(tensors, in, dir_ / "without");
  const Conversion command =
      Command(dir_ / "without", dir_ / "m.gguf", GgufType::kF16, {.no_tokenizer = true});
  const Error error = ErrorOf([&] { command.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr(name));
  EXPECT_THAT(error.message(), HasSubstr("missing"));
  EXPECT_FALSE(fs::exists(dir_ / "m.gguf.partial"));
}

TEST_F(ToGgufTest, OptionsAreChecked) {
  const fs::path in = Bf16Sample();
  Conversion command = Command(in, dir_ / "m.bin", GgufType::kF16);
  EXPECT_THAT(ErrorOf([&] { command.Run(); }).message(), HasSubstr("ends with .gguf"));
  command = Conversion(in, dir_ / "m.gguf", convert::ToGgufConversion({}));
  EXPECT_THAT(ErrorOf([&] { command.Run(); }).message(), HasSubstr("--type is missing"));
  fs::create_directory(dir_ / "d.gguf");
  EXPECT_THAT(ErrorOf([&] { Command(in, dir_ / "d.gguf", GgufType::kF16).Run(); }).message(),
              HasSubstr("is a directory"));
}

TEST_F(ToGgufTest, TheOutputIsOneFileWithItsManifest) {
  const fs::path in = Bf16Sample();
  const Conversion command = Command(in, dir_ / "m.gguf", GgufType::kF16);
  Conversion dry = command;
  dry.request.run.dry_run = true;
  EXPECT_EQ(dry.Run().outcome, convert::ConversionReport::Outcome::kPlanned);
  EXPECT_FALSE(fs::exists(dir_ / "m.gguf"));
  command.Run();
  EXPECT_TRUE(fs::exists(dir_ / "m.gguf.manifest.json"));
  EXPECT_FALSE(fs::exists(dir_ / "m.gguf.partial"));
  EXPECT_EQ(command.Run().outcome, convert::ConversionReport::Outcome::kNothingToDo);
  // Another type is another job.
  Conversion other = Command(in, dir_ / "m.gguf", GgufType::kBF16);
  const Error error = ErrorOf([&] { other.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("--overwrite"));
  other.request.run.overwrite = true;
  other.Run();
  EXPECT_EQ(ReadGguf(dir_ / "m.gguf").Key<std::uint32_t>("general.file_type"), 32U);
}

TEST_F(ToGgufTest, ContinuesAfterEveryFailedChange) {
  const fs::path in = Bf16Sample();
  Command(in, dir_ / "whole.gguf", GgufType::kF16).Run();
  const std::string expected = ReadFile(dir_ / "whole.gguf");
  for (std::size_t change = 0;; change += Stride(5)) {
    SCOPED_TRACE(change);
    fs::create_directory(dir_ / "o");
    const Conversion command = Command(in, dir_ / "o" / "whole.gguf", GgufType::kF16);
    QuickFileSystem quick;
    FaultyFileSystem faulty(quick, change, EIO);
    bool failed = false;
    try {
      command.Run(faulty);
    } catch (const Error&) {
      failed = true;
    }
    if (fs::exists(dir_ / "o" / "whole.gguf")) {
      EXPECT_EQ(ReadFile(dir_ / "o" / "whole.gguf"), expected);
    }
    command.Run();
    EXPECT_TRUE(ReadFile(dir_ / "o" / "whole.gguf") == expected);
    EXPECT_TRUE(fs::exists(dir_ / "o" / "whole.gguf.manifest.json"));
    EXPECT_FALSE(fs::exists(dir_ / "o" / "whole.gguf.partial"));
    fs::remove_all(dir_ / "o");
    if (!failed) break;
  }
}

}  // namespace
}  // namespace dsv3::testing
