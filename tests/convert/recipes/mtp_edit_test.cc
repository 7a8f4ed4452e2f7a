#include <filesystem>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/open/open_model.h"
#include "convert/recipes/layout.h"
#include "convert/recipes/train_to_infer.h"
#include "tests/convert/recipes/train_to_infer_test.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::MtpAction;
using ::testing::HasSubstr;

class MtpEditTest : public TrainToInferTest {
 protected:
  // The model whose training lost its MTP layer, as it says itself or not.
  fs::path Lost(const fs::path& model, int counted) {
    const fs::path lost = dir_ / "lost";
    Convert(model, lost, {.mtp = MtpAction::kDrop});
    SetConfig(lost, "num_nextn_predict_layers", counted);
    return lost;
  }
  static convert::TrainToInferOptions GraftFrom(const fs::path& from) {
    return {.mtp = MtpAction::kGraft, .mtp_from = from};
  }
  Error GraftError(const fs::path& model, const fs::path& from) {
    const Error error = ErrorOf([&] { Convert(model, dir_ / "out", GraftFrom(from)); });
    EXPECT_FALSE(fs::exists(dir_ / "out"));
    return error;
  }
};

// The output's config says no MTP layer, and a list with an entry for one would contradict it.
TEST_F(MtpEditTest, CutsListsOfLayersWithTheMtpLayer) {
  const fs::path in = dir_ / "in";
  MakeSample(convert::SamplePreset::kTiny, 1, in);
  const nlohmann::json types = {"dense", "sparse", "sparse", "sparse", "sparse"};
  SetConfig(in, "mlp_layer_types", types);
  SetConfig(in, "moe_layer_freq", {0, 1, 1, 1, 1});
  SetConfig(in, "index_topk_pattern", "FFFFF");
  Convert(in, dir_ / "main", {.mtp = MtpAction::kDrop});
  const nlohmann::json config = Json(dir_ / "main" / "config.json");
  EXPECT_EQ(config["num_nextn_predict_layers"], 0);
  EXPECT_EQ(config["mlp_layer_types"], nlohmann::json(types.begin(), types.begin() + kMainLayers));
  EXPECT_EQ(config["moe_layer_freq"], nlohmann::json({0, 1, 1, 1}));
  EXPECT_EQ(config["index_topk_pattern"], "FFFF");
  EXPECT_TRUE(convert::OpenModel(dir_ / "main").findings.empty());
  Convert(dir_ / "main", dir_ / "whole", GraftFrom(in));
  EXPECT_TRUE(ReadCheckpoint(dir_ / "whole") == ReadCheckpoint(in));
}

TEST_F(MtpEditTest, ExtractsTheLayerAsNextN) {
  const fs::path in = dir_ / "in";
  const fs::path out = dir_ / "out";
  MakeSample(convert::SamplePreset::kTiny, 1, in);
  Convert(in, out, {.mtp = MtpAction::kExtract});

  std::map<std::string, HeldTensor> expected;
  for (const auto& [name, tensor] : ReadCheckpoint(in)) {
    if (!name.starts_with(kMtpLayer)) continue;
    const std::string rest = name.substr(std::string(kMtpLayer).size());
    if (rest == "embed_tokens.weight" || rest == "shared_head.head.weight") continue;
    expected.emplace("model.layers.0." + rest, tensor);
  }
  EXPECT_TRUE(ReadTensors(out / "nextn_layer_parameters.safetensors") == expected);
  EXPECT_TRUE(ReadCheckpoint(out) == expected);
  const nlohmann::json config = Json(out / "config.json");
  EXPECT_EQ(config["num_hidden_layers"], 1);
  EXPECT_EQ(config["architectures"], nlohmann::json({"DeepseekV3ForCausalLMNextN"}));
  EXPECT_EQ(config["quantization_config"], Json(in / "config.json")["quantization_config"]);
  EXPECT_TRUE(fs::exists(out / "tokenizer.json"));
  // It is a model that every command opens, and of which it knows whether it is whole.
  const convert::OpenedModel model = convert::OpenModel(out);
  EXPECT_TRUE(model.findings.empty());
  EXPECT_TRUE(model.config.is_nextn);
}

TEST_F(MtpEditTest, KnowsWhichTensorsANextNModelNeeds) {
  const fs::path in = Bf16Sample();
  Convert(in, dir_ / "nextn", {.mtp = MtpAction::kExtract});
  std::map<std::string, HeldTensor> tensors = ReadCheckpoint(dir_ / "nextn");
  tensors.erase("model.layers.0.hnorm.weight");
  WriteTensors(tensors, dir_ / "nextn", dir_ / "part");
  const Error error = ErrorOf([&] { convert::OpenModel(dir_ / "part"); });
  EXPECT_EQ(error.place().tensor, "model.layers.0.hnorm.weight");
}

TEST_F(MtpEditTest, ExtractNeedsAnMtpLayer) {
  MakeSample(convert::SamplePreset::kTinyKimi, 1, dir_ / "in");
  const Error error =
      ErrorOf([&] { Convert(dir_ / "in", dir_ / "out", {.mtp = MtpAction::kExtract}); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("no MTP layer"));
  EXPECT_FALSE(fs::exists(dir_ / "out"));
}

TEST_F(MtpEditTest, TakesNoNextNModelForAMainOne) {
  const fs::path in = Bf16Sample();
  Convert(in, dir_ / "nextn", {.mtp = MtpAction::kExtract});
  const Error error =
      ErrorOf([&] { Convert(dir_ / "nextn", dir_ / "out", {.mtp = MtpAction::kDrop}); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("NextN"));
}

TEST_F(MtpEditTest, GraftsTheLayerOfAnotherCheckpoint) {
  const fs::path whole = Bf16Sample();
  for (const int counted : {0, 1}) {
    const fs::path lost = Lost(whole, counted);
    const fs::path out = dir_ / "out";
    const convert::ConversionReport report = Convert(lost, out, GraftFrom(whole));
    EXPECT_TRUE(ReadCheckpoint(out) == ReadCheckpoint(whole));
    EXPECT_EQ(Json(out / "config.json"), Json(whole / "config.json"));
    EXPECT_EQ(report.facts[1].member, "grafted");
    EXPECT_EQ(report.facts[1].names.size(), 44U);
    EXPECT_TRUE(report.warnings.empty());
    fs::remove_all(out);
    fs::remove_all(lost);
  }
}

// The copies of an embedding that was tuned follow it; the other checkpoint's are of before.
TEST_F(MtpEditTest, GraftsCopiesOfTheModelsOwnEmbeddingAndHead) {
  const fs::path whole = Bf16Sample();
  const fs::path lost = Lost(whole, 1);
  std::map<std::string, HeldTensor> tuned = ReadCheckpoint(lost);
  for (const char* const name : {"model.embed_tokens.weight", "lm_head.weight"}) {
    tuned.at(name).bytes[7] ^= 1;
  }
  WriteTensors(tuned, lost, dir_ / "tuned");
  const convert::ConversionReport report = Convert(dir_ / "tuned", dir_ / "out", GraftFrom(whole));
  std::map<std::string, HeldTensor> expected = ReadCheckpoint(whole);
  for (const auto& [name, tensor] : tuned) expected.at(name) = tensor;
  expected.at("model.layers.4.embed_tokens.weight") = tuned.at("model.embed_tokens.weight");
  expected.at("model.layers.4.shared_head.head.weight") = tuned.at("lm_head.weight");
  EXPECT_TRUE(ReadCheckpoint(dir_ / "out") == expected);
  EXPECT_TRUE(report.warnings.empty());
  EXPECT_EQ(report.facts[3].member, "shared");
  EXPECT_THAT(report.facts[3].names,
              ::testing::ElementsAre("model.layers.4.embed_tokens.weight",
                                     "model.layers.4.shared_head.head.weight"));
}

TEST_F(MtpEditTest, WarnsWhereTheGraftedLayerHadAnEmbeddingOfItsOwn) {
  const fs::path whole = Bf16Sample();
  const fs::path lost = Lost(whole, 1);
  std::map<std::string, HeldTensor> own = ReadCheckpoint(whole);
  own.at("model.layers.4.embed_tokens.weight").bytes.back() ^= 1;
  WriteTensors(own, whole, dir_ / "own");
  const convert::ConversionReport report = Convert(lost, dir_ / "out", GraftFrom(dir_ / "own"));
  EXPECT_TRUE(ReadCheckpoint(dir_ / "out") == ReadCheckpoint(whole));
  ASSERT_EQ(report.warnings.size(), 1U);
  EXPECT_EQ(report.warnings[0].tensor, "model.layers.4.embed_tokens.weight");
  EXPECT_THAT(report.warnings[0].message, HasSubstr("was trained with one of its own"));
}

TEST_F(MtpEditTest, WarnsOfOwnCopiesInRankShards) {
  const fs::path whole = Bf16Sample();
  auto tensors = ReadCheckpoint(whole);
  tensors.at("model.layers.4.shared_head.head.weight").bytes[0] ^= 1;
  WriteTensors(tensors, whole, dir_ / "own");
  convert::ReshardOptions ranks;
  ranks.parallel.tp = 2;
  RunReshard(dir_ / "own", dir_ / "ranks", ranks);
  const convert::ConversionReport report =
      Convert(Lost(whole, 1), dir_ / "out", GraftFrom(dir_ / "ranks"));
  ASSERT_EQ(report.warnings.size(), 1U);
  EXPECT_THAT(report.warnings[0].message, HasSubstr("was trained with one of its own"));
  EXPECT_TRUE(ReadCheckpoint(dir_ / "out") == ReadCheckpoint(whole));
}

TEST_F(MtpEditTest, GraftsFp8IntoFp8) {
  MakeSample(convert::SamplePreset::kTiny, 1, dir_ / "whole");
  const fs::path lost = Lost(dir_ / "whole", 0);
  Convert(lost, dir_ / "out", GraftFrom(dir_ / "whole"));
  EXPECT_TRUE(ReadCheckpoint(dir_ / "out") == ReadCheckpoint(dir_ / "whole"));
}

TEST_F(MtpEditTest, GraftsIntoAModelOfOneFile) {
  const fs::path whole = Bf16Sample();
  const fs::path lost = Lost(whole, 1);
  WriteTensors(ReadCheckpoint(lost), lost, dir_ / "one");
  Convert(dir_ / "one", dir_ / "out", GraftFrom(whole));
  EXPECT_TRUE(ReadTensors(dir_ / "out" / "model.safetensors") == ReadCheckpoint(whole));
  EXPECT_FALSE(fs::exists(dir_ / "out" / "model.safetensors.index.json"));
}

// Whatever every command opens is good for it.
TEST_F(MtpEditTest, GraftsFromAFileFromRankShardsAndFromATrainingCheckpoint) {
  const fs::path whole = Bf16Sample();
  const fs::path lost = Lost(whole, 1);
  const auto expected = ReadCheckpoint(whole);
  WriteTensors(expected, whole, dir_ / "file");
  convert::ReshardOptions ranks;
  ranks.parallel.tp = 2;
  RunReshard(whole, dir_ / "ranks", ranks);
  Conversion(whole, dir_ / "train", convert::LayoutConversion({.to = "mindformers-train"})).Run();
  for (const fs::path& from :
       {dir_ / "file" / "model.safetensors", dir_ / "ranks", dir_ / "train"}) {
    SCOPED_TRACE(from);
    const convert::ConversionReport report = Convert(lost, dir_ / "out", GraftFrom(from));
    EXPECT_TRUE(ReadCheckpoint(dir_ / "out") == expected);
    EXPECT_EQ(Json(dir_ / "out" / "config.json"), Json(whole / "config.json"));
    EXPECT_EQ(report.facts[1].names.size(), 44U);
    fs::remove_all(dir_ / "out");
  }
}

TEST_F(MtpEditTest, FindsDamageInTheRankShardsThatItGraftsFromBeforeItWrites) {
  const fs::path whole = Bf16Sample();
  const fs::path lost = Lost(whole, 1);
  convert::ReshardOptions pipeline;
  pipeline.parallel.tp = 1;
  pipeline.parallel.pp = 2;
  RunReshard(whole, dir_ / "ranks", pipeline);
  // The last byte of the last stage is one of the MTP layer or behind it.
  for (const fs::directory_entry& entry : fs::directory_iterator(dir_ / "ranks")) {
    if (entry.path().extension() != ".safetensors") continue;
    std::string bytes = ReadFile(entry.path());
    for (std::size_t at = bytes.size() / 2; at < bytes.size(); at += 100) bytes[at] ^= 1;
    WriteFile(entry.path(), bytes);
  }
  const Error error = ErrorOf([&] { Convert(lost, dir_ / "out", GraftFrom(dir_ / "ranks")); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_FALSE(fs::exists(dir_ / "out" / "model-mtp.safetensors"));
}

TEST_F(MtpEditTest, MakesGraftedFloatsBf16AsTheModelsOwn) {
  const fs::path whole = Bf16Sample();
  const fs::path lost = Lost(whole, 1);
  auto wide = ReadCheckpoint(whole);
  for (auto& [name, tensor] : wide) {
    if (name.starts_with(kMtpLayer) && tensor.dtype == formats::Dtype::kBF16) {
      tensor = Widened(tensor);
    }
  }
  WriteTensors(wide, whole, dir_ / "wide");
  Convert(lost, dir_ / "out", GraftFrom(dir_ / "wide"));
  EXPECT_TRUE(ReadCheckpoint(dir_ / "out") == ReadCheckpoint(whole));
}

TEST_F(MtpEditTest, RefusesToGraftAnotherForm) {
  MakeSample(convert::SamplePreset::kTiny, 1, dir_ / "fp8-whole");
  const fs::path bf16 = Bf16Sample();
  const Error into_bf16 = GraftError(Lost(bf16, 1), dir_ / "fp8-whole");
  EXPECT_EQ(into_bf16.code(), ErrorCode::kBadInput);
  EXPECT_THAT(into_bf16.message(), HasSubstr("dsv3-convert fp8-to-bf16"));
  fs::remove_all(dir_ / "lost");
  const Error into_fp8 = GraftError(Lost(dir_ / "fp8-whole", 1), bf16);
  EXPECT_EQ(into_fp8.code(), ErrorCode::kBadInput);
  EXPECT_THAT(into_fp8.message(), HasSubstr("dsv3-convert bf16-to-fp8"));
}

TEST_F(MtpEditTest, RefusesToGraftOverLayersThatAreThere) {
  const fs::path whole = Bf16Sample();
  EXPECT_THAT(GraftError(whole, whole).message(), HasSubstr("--mtp drop"));
}

TEST_F(MtpEditTest, RefusesToGraftFromAModelWithoutMtpLayers) {
  const fs::path whole = Bf16Sample();
  const fs::path lost = Lost(whole, 0);
  EXPECT_THAT(GraftError(lost, lost).message(), HasSubstr("it has no MTP layer"));
}

TEST_F(MtpEditTest, RefusesToGraftLayersOfOtherShapes) {
  const fs::path whole = Bf16Sample();
  const fs::path lost = Lost(whole, 0);
  MakeSample(convert::SamplePreset::kTinyTp, 1, dir_ / "other-fp8");
  Conversion(dir_ / "other-fp8", dir_ / "other").Run();
  const Error error = GraftError(lost, dir_ / "other");
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("the two are of different models"));
}

// Nothing would load it, and a loader may stop at it.
TEST_F(MtpEditTest, RefusesToGraftModulesThatTheModelDoesNotHave) {
  const fs::path whole = Bf16Sample();
  const fs::path lost = Lost(whole, 0);
  auto tensors = ReadCheckpoint(whole);
  const std::string indexer = std::string(kMtpLayer) + "self_attn.indexer.k_norm.weight";
  tensors[indexer] = tensors.at("model.norm.weight");
  WriteTensors(tensors, whole, dir_ / "other");
  const Error error = GraftError(lost, dir_ / "other");
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, indexer);
  EXPECT_THAT(error.message(), HasSubstr("the two are of different models"));
}

TEST_F(MtpEditTest, NamesTheOtherCheckpointInItsErrors) {
  const fs::path whole = Bf16Sample();
  const Error error = GraftError(Lost(whole, 0), dir_ / "nowhere");
  EXPECT_THAT(error.message(), ::testing::StartsWith("--mtp-from "));
}

TEST_F(MtpEditTest, GraftAndTheOtherCheckpointGoTogether) {
  const fs::path whole = Bf16Sample();
  const Error without = ErrorOf([&] { Convert(whole, dir_ / "out", {.mtp = MtpAction::kGraft}); });
  EXPECT_EQ(without.code(), ErrorCode::kUsage);
  EXPECT_THAT(without.message(), HasSubstr("--mtp-from"));
  const Error alone = ErrorOf([&] { Convert(whole, dir_ / "out", {.mtp_from = whole}); });
  EXPECT_EQ(alone.code(), ErrorCode::kUsage);
}

}  // namespace
}  // namespace dsv3::testing
