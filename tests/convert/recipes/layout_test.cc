#include "convert/recipes/layout.h"

#include <filesystem>
#include <map>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/recipes/train_to_infer_test.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class LayoutTest : public TrainToInferTest {
 protected:
  static convert::ConversionReport Write(const fs::path& input, const fs::path& output,
                                         const std::string& to) {
    return Conversion(input, output, convert::LayoutConversion({.to = to})).Run();
  }

  static std::set<std::string> WeightFiles(const fs::path& directory) {
    std::set<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
      const std::string name = entry.path().filename().string();
      if (name.ends_with(".safetensors")) names.insert(name);
    }
    return names;
  }
};

TEST_F(LayoutTest, EveryLayoutComesBackToTheByte) {
  const fs::path in = Bf16Sample();
  Write(in, dir_ / "hf", "hf");
  const std::string model = ReadFile(dir_ / "hf" / "model.safetensors");
  const std::string config = ReadFile(dir_ / "hf" / "config.json");
  EXPECT_TRUE(ReadTensors(dir_ / "hf" / "model.safetensors") == ReadCheckpoint(in));
  EXPECT_EQ(config, ReadFile(in / "config.json"));
  for (const convert::WritableLayout& layout : convert::WritableLayouts()) {
    if (layout.name == "hf") continue;
    // Nothing in its files says which rows are the gate's.
    if (layout.name == "mindformers-mcore-v2-contiguous") continue;
    const fs::path there = dir_ / std::string(layout.name);
    const fs::path back = dir_ / ("back-" + std::string(layout.name));
    Write(in, there, std::string(layout.name));
    Write(there, back, "hf");
    EXPECT_TRUE(ReadFile(back / "model.safetensors") == model) << layout.name;
    EXPECT_EQ(ReadFile(back / "config.json"), config) << layout.name;
  }
}

TEST_F(LayoutTest, TakesTheOrderOfGateAndUpFromTheUser) {
  const fs::path in = Bf16Sample();
  Write(in, dir_ / "turns", "mindformers-mcore-v2");
  Write(in, dir_ / "behind", "mindformers-mcore-v2-contiguous");
  const char* const file = "ms-model-00001-of-00005.safetensors";
  const auto turns = ReadTensors(dir_ / "turns" / file);
  const auto behind = ReadTensors(dir_ / "behind" / file);
  const auto model = ReadCheckpoint(in);
  const std::string& gate = model.at("model.layers.0.mlp.gate_proj.weight").bytes;
  const std::string& up = model.at("model.layers.0.mlp.up_proj.weight").bytes;
  const std::size_t row = gate.size() / model.at("model.layers.0.mlp.gate_proj.weight").shape[0];
  const char* const fc1 = "decoder.layers.0.mlp.linear_fc1.weight";
  EXPECT_TRUE(behind.at(fc1).bytes == gate + up);
  EXPECT_TRUE(turns.at(fc1).bytes.substr(0, 2 * row) == gate.substr(0, row) + up.substr(0, row));
  // Only --from says which it is.
  for (const auto& [there, from] :
       {std::pair("turns", convert::Stack::kMindformersMcoreV2),
        std::pair("behind", convert::Stack::kMindformersMcoreV2Contiguous)}) {
    Convert(dir_ / there, dir_ / "back", {.from = from});
    EXPECT_TRUE(ReadCheckpoint(dir_ / "back") == model) << there;
    fs::remove_all(dir_ / "back");
  }
  const convert::ConversionReport guessed = Convert(dir_ / "behind", dir_ / "back");
  EXPECT_FALSE(ReadCheckpoint(dir_ / "back") == model);
  ASSERT_EQ(guessed.warnings.size(), 1U);
  EXPECT_EQ(guessed.warnings[0].kind, "order-not-known");
  EXPECT_THAT(guessed.warnings[0].message,
              HasSubstr("read it with --from mindformers-mcore-v2-contiguous; if not, say --from "
                        "mindformers-mcore-v2"));
}

TEST_F(LayoutTest, TakesTheOrderOfGateAndUpFromMindformersYaml) {
  const fs::path in = Bf16Sample();
  Write(in, dir_ / "behind", "mindformers-mcore-v2-contiguous");
  WriteFile(dir_ / "behind" / "train.yaml", "use_interleaved_weight_layout_mlp: False\n");
  const convert::ConversionReport report = Convert(dir_ / "behind", dir_ / "back");
  EXPECT_TRUE(ReadCheckpoint(dir_ / "back") == ReadCheckpoint(in));
  EXPECT_TRUE(report.warnings.empty());
  EXPECT_THAT(report.facts.back().names, ::testing::ElementsAre("mindformers-mcore-v2-contiguous"));
}

// One model, cut for two ranks of the demo, with and without its MTP layer.
TEST_F(LayoutTest, ReadsTheDemosFilesAsMergeDoes) {
  MakeSample(convert::SamplePreset::kTinyTp, 1, dir_ / "in");
  for (const bool keep_mtp : {true, false}) {
    convert::ReshardOptions options;
    options.parallel.tp = 2;
    options.parallel.ep = 2;
    options.format = convert::RankFormat::kDeepseek;
    options.keep_mtp = keep_mtp;
    const fs::path demo = dir_ / (keep_mtp ? "demo" : "demo-main");
    RunReshard(dir_ / "in", demo, options);
    fs::remove(demo / "layout.json");
    fs::remove(demo / "checkpoint.manifest.json");
    const fs::path merged = demo.string() + "-merged";
    RunMerge(demo, merged);
    const fs::path out = demo.string() + "-hf";
    const convert::ConversionReport report = Write(demo, out, "hf");
    auto expected = ReadTree(merged);
    auto found = ReadTree(out);
    expected.erase("checkpoint.manifest.json");
    found.erase("checkpoint.manifest.json");
    EXPECT_TRUE(found == expected) << keep_mtp;
    EXPECT_TRUE(report.warnings.empty());
    EXPECT_THAT(report.facts.back().names, ::testing::ElementsAre("deepseek"));
  }
}

TEST_F(LayoutTest, SaysWhereTheConfigOfADemoCountsOtherMtpLayers) {
  const fs::path in = Bf16Sample();
  Convert(in, dir_ / "main", {.mtp = convert::MtpAction::kDrop});
  Write(dir_ / "main", dir_ / "demo", "deepseek");
  Conversion conversion(
      dir_ / "demo", dir_ / "ms",
      convert::LayoutConversion({.to = "mindformers-train", .config = in / "config.json"}));
  const convert::ConversionReport report = conversion.Run();
  ASSERT_EQ(report.warnings.size(), 1U);
  EXPECT_EQ(report.warnings[0].kind, "demo-config");
  Write(dir_ / "main", dir_ / "expected", "mindformers-train");
  for (const std::string& name : WeightFiles(dir_ / "expected")) {
    EXPECT_TRUE(ReadFile(dir_ / "ms" / name) == ReadFile(dir_ / "expected" / name)) << name;
  }
}

TEST_F(LayoutTest, RefusesADemoUnderAnotherName) {
  const fs::path in = Bf16Sample();
  Write(in, dir_ / "demo", "deepseek");
  Conversion conversion(dir_ / "demo", dir_ / "out",
                        convert::LayoutConversion({.to = "hf", .from = convert::Stack::kMegatron}));
  const Error error = ErrorOf([&] { conversion.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("say --from deepseek"));
  EXPECT_FALSE(fs::exists(dir_ / "out"));
}

TEST_F(LayoutTest, AnyLayoutGoesIntoAnyOther) {
  const fs::path in = Bf16Sample();
  Write(in, dir_ / "train", "mindformers-train-bmm");
  Write(dir_ / "train", dir_ / "infer", "mindformers-infer");
  Write(dir_ / "infer", dir_ / "mcore", "mindformers-mcore-v2");
  Write(dir_ / "mcore", dir_ / "hf", "hf");
  EXPECT_TRUE(ReadTensors(dir_ / "hf" / "model.safetensors") == ReadCheckpoint(in));
}

TEST_F(LayoutTest, KeepsFp8WhereTheLayoutHasScales) {
  MakeSample(convert::SamplePreset::kTiny, 1, dir_ / "fp8");
  Write(dir_ / "fp8", dir_ / "demo", "deepseek");
  const auto demo = ReadTensors(dir_ / "demo" / "model0-mp1.safetensors");
  const auto in = ReadCheckpoint(dir_ / "fp8");
  EXPECT_EQ(demo.size(), in.size());
  EXPECT_TRUE(demo.at("layers.0.attn.wo.weight") ==
              in.at("model.layers.0.self_attn.o_proj.weight"));
  EXPECT_TRUE(demo.at("layers.0.attn.wo.scale") ==
              in.at("model.layers.0.self_attn.o_proj.weight_scale_inv"));
}

TEST_F(LayoutTest, MakesBf16OfFp8WhereTheLayoutHasNoScales) {
  const fs::path bf16 = Bf16Sample();  // of dir_ / "fp8"
  Write(dir_ / "fp8", dir_ / "of-fp8", "mindformers-train");
  Write(bf16, dir_ / "of-bf16", "mindformers-train");
  for (const std::string& name : WeightFiles(dir_ / "of-bf16")) {
    EXPECT_TRUE(ReadFile(dir_ / "of-fp8" / name) == ReadFile(dir_ / "of-bf16" / name)) << name;
  }
  EXPECT_FALSE(Json(dir_ / "of-fp8" / "config.json").contains("quantization_config"));
}

// What lies in parts in several files, and in another order than the model's.
TEST_F(LayoutTest, RefusesScalesThatAreNoneWhereItMakesBf16) {
  const fs::path in = dir_ / "in";
  MakeSample(convert::SamplePreset::kTiny, 1, in);
  std::map<std::string, HeldTensor> tensors = ReadCheckpoint(in);
  const std::string name = "model.layers.1.mlp.experts.3.gate_proj.weight_scale_inv";
  tensors.at(name).bytes.replace(0, 4, std::string("\0\0\xC0\x7F", 4));  // NaN
  WriteTensors(tensors, in, dir_ / "bad");
  const Error error = ErrorOf([&] { Write(dir_ / "bad", dir_ / "out", "mindformers-train"); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, name);
  EXPECT_THAT(error.message(), HasSubstr("fp8-to-bf16 --allow-bad-scales"));
  EXPECT_FALSE(fs::exists(dir_ / "out"));
  // Nothing is made of it where the scales go along.
  Write(dir_ / "bad", dir_ / "out", "deepseek");
}

TEST_F(LayoutTest, MakesBf16OfFp8ThatManyFilesHold) {
  const fs::path fp8 = dir_ / "in";
  MakeSample(convert::SamplePreset::kTinyTp, 1, fp8);
  Write(fp8, dir_ / "expected", "mindformers-infer");
  Write(fp8, dir_ / "fused", "transformers-fused");
  convert::ReshardOptions options;
  options.parallel.tp = 2;
  options.parallel.ep = 2;
  RunReshard(fp8, dir_ / "ranks", options);
  convert::ReshardOptions stages;
  stages.parallel.tp = 1;
  stages.parallel.pp = 2;
  RunReshard(dir_ / "fused", dir_ / "fused-ranks", stages);
  options.keep_mtp = true;
  options.format = convert::RankFormat::kDeepseek;
  RunReshard(fp8, dir_ / "demo", options);
  fs::remove(dir_ / "demo" / "layout.json");
  for (const char* const from : {"ranks", "fused", "fused-ranks", "demo"}) {
    SCOPED_TRACE(from);
    const fs::path out = dir_ / (std::string("of-") + from);
    Write(dir_ / from, out, "mindformers-infer");
    for (const std::string& name : WeightFiles(dir_ / "expected")) {
      EXPECT_TRUE(ReadFile(out / name) == ReadFile(dir_ / "expected" / name)) << name;
    }
    EXPECT_FALSE(Json(out / "config.json").contains("quantization_config"));
  }
}

// The formulas of the forms: RoPE rows of each head sorted, experts transposed, norms in F32.
TEST_F(LayoutTest, WritesWhatMindformersTrainingReads) {
  const fs::path in = Bf16Sample();
  Write(in, dir_ / "out", "mindformers-train");
  const auto model = ReadCheckpoint(in);
  EXPECT_EQ(WeightFiles(dir_ / "out").size(), kMainLayers + 1U);
  const auto first = ReadTensors(dir_ / "out" / "ms-model-00001-of-00005.safetensors");
  const auto last = ReadTensors(dir_ / "out" / "ms-model-00005-of-00005.safetensors");
  EXPECT_TRUE(first.at("model.tok_embeddings.embedding_weight") ==
              model.at("model.embed_tokens.weight"));
  EXPECT_TRUE(last.at("lm_head.weight") == model.at("lm_head.weight"));
  EXPECT_TRUE(last.at("model.norm_out.weight") == Widened(model.at("model.norm.weight")));
  EXPECT_TRUE(last.at("model.mtp_hidden_fusers.0.dense.weight") ==
              model.at("model.layers.4.eh_proj.weight"));
  const auto second = ReadTensors(dir_ / "out" / "ms-model-00002-of-00005.safetensors");
  const HeldTensor& experts = second.at("model.layers.1.feed_forward.routed_experts.ffn.w1");
  const HeldTensor& gate = model.at("model.layers.1.mlp.experts.2.gate_proj.weight");
  const HeldTensor& up = model.at("model.layers.1.mlp.experts.2.up_proj.weight");
  const std::uint64_t width = gate.shape[0];
  const std::uint64_t hidden = gate.shape[1];
  ASSERT_EQ(experts.shape[1], hidden);
  ASSERT_EQ(experts.shape[2], 2 * width);
  for (const auto& [h, i] :
       {std::pair<std::uint64_t, std::uint64_t>{0, 0}, {5, 7}, {hidden - 1, 3}}) {
    const std::uint64_t at = (2 * hidden + h) * 2 * width;
    EXPECT_EQ(experts.bytes.substr((at + i) * 2, 2), gate.bytes.substr((i * hidden + h) * 2, 2));
    EXPECT_EQ(experts.bytes.substr((at + width + i) * 2, 2),
              up.bytes.substr((i * hidden + h) * 2, 2));
  }
  const nlohmann::json map = Json(dir_ / "out" / "param_name_map.json");
  EXPECT_EQ(map["lm_head.weight"], "ms-model-00005-of-00005.safetensors");
  EXPECT_THAT(ReadFile(dir_ / "out" / "ms-model-00001-of-00005.safetensors").substr(0, 200),
              HasSubstr(R"("format":"ms")"));
}

TEST_F(LayoutTest, NamesTheFilesOfTheInferenceNetwork) {
  Write(Bf16Sample(), dir_ / "out", "mindformers-infer");
  const std::set<std::string> files = WeightFiles(dir_ / "out");
  EXPECT_TRUE(files.contains("model.safetensors"));
  EXPECT_TRUE(files.contains("model_layer_0.safetensors"));
  EXPECT_TRUE(files.contains("model_layer_4_routed_experts_w3.safetensors"));
  EXPECT_FALSE(files.contains("model_layer_0_routed_experts_w1.safetensors"));
  EXPECT_TRUE(ReadTensors(dir_ / "out" / "model_layer_4.safetensors")
                  .contains("model.layers.4.enorm.weight"));
}

TEST_F(LayoutTest, ContinuesAFinishedOutputAndRefusesAnotherLayoutInIt) {
  const fs::path in = Bf16Sample();
  Write(in, dir_ / "out", "mindformers-train");
  EXPECT_EQ(Write(in, dir_ / "out", "mindformers-train").outcome,
            convert::ConversionReport::Outcome::kNothingToDo);
  const Error error = ErrorOf([&] { Write(in, dir_ / "out", "mindformers-infer"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
}

TEST_F(LayoutTest, RefusesAMapThatGivesATensorToAnotherFile) {
  Write(Bf16Sample(), dir_ / "out", "mindformers-train");
  nlohmann::json map = Json(dir_ / "out" / "param_name_map.json");
  map["lm_head.weight"] = "ms-model-00001-of-00005.safetensors";
  WriteFile(dir_ / "out" / "param_name_map.json", map.dump(2));
  const Error error = ErrorOf([&] { Write(dir_ / "out", dir_ / "back", "hf"); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, "lm_head.weight");
  EXPECT_FALSE(fs::exists(dir_ / "back"));
}

// Forms that share the embedding and the head with the main model would lose what is the MTP
// layer's own.
TEST_F(LayoutTest, RefusesCopiesThatDifferFromTheMainModels) {
  const fs::path in = Bf16Sample();
  for (const std::string copy : {"embed_tokens.weight", "shared_head.head.weight"}) {
    auto tensors = ReadCheckpoint(in);
    HeldTensor& spoiled = tensors.at(kMtpLayer + copy);
    spoiled.bytes.back() = static_cast<char>(spoiled.bytes.back() ^ 1);
    fs::remove_all(dir_ / "spoiled");
    WriteTensors(tensors, in, dir_ / "spoiled");
    const Error error =
        ErrorOf([&] { Write(dir_ / "spoiled", dir_ / "out", "mindformers-train"); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_EQ(error.place().tensor, kMtpLayer + copy);
    EXPECT_THAT(error.message(), HasSubstr("--mtp drop"));
    EXPECT_FALSE(fs::exists(dir_ / "out"));
    const Error extract = ErrorOf(
        [&] { Convert(dir_ / "spoiled", dir_ / "out", {.mtp = convert::MtpAction::kExtract}); });
    EXPECT_EQ(extract.place().tensor, kMtpLayer + copy);
    EXPECT_FALSE(fs::exists(dir_ / "out"));
    // hf holds both.
    Write(dir_ / "spoiled", dir_ / "hf", "hf");
    EXPECT_TRUE(ReadCheckpoint(dir_ / "hf") == tensors);
    fs::remove_all(dir_ / "hf");
  }
}

TEST_F(LayoutTest, RefusesLayersThatTheConfigDoesNotCount) {
  const fs::path in = Bf16Sample();
  SetConfig(in, "num_nextn_predict_layers", 0);
  for (const char* const to : {"transformers-fused", "mindformers-train", "mindformers-infer",
                               "mindformers-mcore-v1", "mindformers-mcore-v2"}) {
    const Error error = ErrorOf([&] { Write(in, dir_ / "out", to); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << to;
    EXPECT_THAT(error.message(), HasSubstr("set num_nextn_predict_layers to 1 "));
    EXPECT_FALSE(fs::exists(dir_ / "out"));
  }
  for (const std::string to : {"hf", "deepseek"}) {
    Write(in, dir_ / to, to);
    Write(dir_ / to, dir_ / (to + "-back"), "hf");
    EXPECT_TRUE(ReadCheckpoint(dir_ / (to + "-back")) == ReadCheckpoint(in)) << to;
  }
}

TEST_F(LayoutTest, NeedsALayout) {
  const Error error = ErrorOf([&] { Write(Bf16Sample(), dir_ / "out", ""); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("--to"));
}

}  // namespace
}  // namespace dsv3::testing
