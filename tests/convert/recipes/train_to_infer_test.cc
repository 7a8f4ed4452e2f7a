#include "tests/convert/recipes/train_to_infer_test.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/catalog/name_pattern.h"
#include "convert/recipes/layout.h"
#include "convert/recipes/train_to_infer.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::MtpAction;
using ::testing::HasSubstr;

const convert::TrainToInferOptions kDrop = {.mtp = MtpAction::kDrop};

TEST_F(TrainToInferTest, DropsTheTensorsOfMtpLayersAloneFromShardsIndexAndConfig) {
  const fs::path in = dir_ / "in";
  const fs::path out = dir_ / "out";
  MakeSample(convert::SamplePreset::kTiny, 1, in);
  ASSERT_EQ(Json(in / "config.json")["num_hidden_layers"], kMainLayers);
  ASSERT_EQ(Json(in / "config.json")["num_nextn_predict_layers"], 1);

  const convert::ConversionReport report = Convert(in, out, kDrop);

  std::map<std::string, HeldTensor> expected = ReadCheckpoint(in);
  const std::size_t dropped = std::erase_if(
      expected, [&](const auto& tensor) { return tensor.first.starts_with(kMtpLayer); });
  ASSERT_GT(dropped, 0U);
  EXPECT_TRUE(ReadCheckpoint(out) == expected);
  ASSERT_FALSE(report.facts.empty());
  EXPECT_EQ(report.facts[0].member, "dropped");
  EXPECT_EQ(report.facts[0].names.size(), dropped);
  convert::PatternCounts in_manifest;
  const nlohmann::json manifest = Json(out / "checkpoint.manifest.json");
  for (const nlohmann::json& pattern : manifest["source"]["dropped"]) {
    in_manifest[pattern["pattern"]] = pattern["tensors"];
  }
  EXPECT_EQ(in_manifest, convert::CountPatterns(report.facts[0].names));
  EXPECT_EQ(report.copied_tensors, expected.size());

  const nlohmann::json index = Json(out / "model.safetensors.index.json");
  EXPECT_EQ(index["weight_map"].size(), expected.size());
  for (const auto& [name, shard] : index["weight_map"].items()) {
    EXPECT_TRUE(expected.contains(name)) << name;
    EXPECT_TRUE(fs::exists(out / shard.get<std::string>())) << shard;
  }
  std::string config = ReadFile(in / "config.json");
  const std::string member = "\"num_nextn_predict_layers\": ";
  config.replace(config.find(member), member.size() + 1, member + "0");
  EXPECT_EQ(ReadFile(out / "config.json"), config);
}

TEST_F(TrainToInferTest, KeepsEveryByteOfShardsThatLoseNothing) {
  const fs::path in = dir_ / "in";
  const fs::path out = dir_ / "out";
  MakeSample(convert::SamplePreset::kTiny, 1, in);
  Convert(in, out, kDrop);
  std::size_t shards = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(out)) {
    if (entry.path().extension() != ".safetensors") continue;
    ++shards;
    EXPECT_TRUE(ReadFile(entry.path()) == ReadFile(in / entry.path().filename()));
  }
  EXPECT_GT(shards, 0U);
}

TEST_F(TrainToInferTest, TakesRankShardsForTheirModel) {
  MakeSample(convert::SamplePreset::kTinyTp, 1, dir_ / "in");
  convert::ReshardOptions options;
  options.parallel.tp = 2;
  RunReshard(dir_ / "in", dir_ / "ranks", options);
  Convert(dir_ / "in", dir_ / "out", kDrop);
  Convert(dir_ / "ranks", dir_ / "out-of-ranks", kDrop);
  EXPECT_TRUE(ReadTree(dir_ / "out") == ReadTree(dir_ / "out-of-ranks"));
}

TEST_F(TrainToInferTest, KeepsAModelWithoutMtpLayersAndSaysSo) {
  MakeSample(convert::SamplePreset::kTinyKimi, 1, dir_ / "in");
  const convert::ConversionReport report = Convert(dir_ / "in", dir_ / "out", kDrop);
  EXPECT_TRUE(ReadCheckpoint(dir_ / "out") == ReadCheckpoint(dir_ / "in"));
  EXPECT_EQ(ReadFile(dir_ / "out" / "config.json"), ReadFile(dir_ / "in" / "config.json"));
  ASSERT_EQ(report.warnings.size(), 1U);
  EXPECT_EQ(report.warnings[0].kind, "no-mtp");
}

TEST_F(TrainToInferTest, KeepsEverythingByDefault) {
  MakeSample(convert::SamplePreset::kTiny, 1, dir_ / "in");
  Convert(dir_ / "in", dir_ / "out");
  std::map<std::string, std::string> expected = ReadTree(dir_ / "in");
  std::map<std::string, std::string> found = ReadTree(dir_ / "out");
  found.erase("checkpoint.manifest.json");
  EXPECT_TRUE(found == expected);
}

TEST_F(TrainToInferTest, SetsTheNumberOfMtpLayersWhereNoneIsThere) {
  const fs::path in = Bf16Sample();
  Convert(in, dir_ / "lost", kDrop);
  SetConfig(dir_ / "lost", "num_nextn_predict_layers", 1);
  for (const MtpAction action : {MtpAction::kKeep, MtpAction::kDrop}) {
    const fs::path out = dir_ / (action == MtpAction::kKeep ? "kept" : "dropped");
    const convert::ConversionReport report = Convert(dir_ / "lost", out, {.mtp = action});
    EXPECT_EQ(Json(out / "config.json")["num_nextn_predict_layers"], 0);
    EXPECT_EQ(report.warnings.size(), 1U);
    EXPECT_TRUE(ReadCheckpoint(out) == ReadCheckpoint(dir_ / "lost"));
  }
}

TEST_F(TrainToInferTest, RefusesMtpLayersThatAreThereInPart) {
  const fs::path in = Bf16Sample();
  std::map<std::string, HeldTensor> tensors = ReadCheckpoint(in);
  ASSERT_EQ(tensors.erase("model.layers.4.enorm.weight"), 1U);
  WriteTensors(tensors, in, dir_ / "part");
  const Error error = ErrorOf([&] { Convert(dir_ / "part", dir_ / "out"); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, "model.layers.4.enorm.weight");
  EXPECT_FALSE(fs::exists(dir_ / "out"));
}

TEST_F(TrainToInferTest, RoundsF32WeightsAndKeepsTheRoutersBias) {
  const fs::path bf16 = Bf16Sample();
  const std::map<std::string, HeldTensor> expected = ReadCheckpoint(bf16);
  std::map<std::string, HeldTensor> wide = expected;
  for (auto& [name, tensor] : wide) {
    if (tensor.dtype == formats::Dtype::kBF16) tensor = Widened(tensor);
  }
  // A quarter of a unit in the last place is lost.
  wide.at("model.norm.weight").bytes[1] = '\x40';
  WriteTensors(wide, bf16, dir_ / "f32");
  SetConfig(dir_ / "f32", "torch_dtype", "float32");

  const convert::ConversionReport report = Convert(dir_ / "f32", dir_ / "out");
  EXPECT_TRUE(ReadCheckpoint(dir_ / "out") == expected);
  EXPECT_EQ(Json(dir_ / "out" / "config.json")["torch_dtype"], "bfloat16");
  EXPECT_EQ(expected.at("model.layers.3.mlp.gate.e_score_correction_bias").dtype,
            formats::Dtype::kF32);
  EXPECT_GT(report.converted_tensors, 100U);

  Convert(dir_ / "f32", dir_ / "kept", {.dtype = convert::TrainDtype::kKeep});
  EXPECT_TRUE(ReadCheckpoint(dir_ / "kept") == wide);
  EXPECT_EQ(Json(dir_ / "kept" / "config.json")["torch_dtype"], "float32");
}

TEST_F(TrainToInferTest, RefusesF64AndIntegerWeights) {
  const fs::path in = Bf16Sample();
  const auto layout = [&] {
    Conversion(dir_ / "in", dir_ / "out", convert::LayoutConversion({.to = "deepseek"})).Run();
  };
  for (const std::string name :
       {"model.norm.weight", "model.layers.1.mlp.gate.e_score_correction_bias"}) {
    for (const formats::Dtype dtype :
         {formats::Dtype::kF64, formats::Dtype::kC64, formats::Dtype::kI32, formats::Dtype::kI8}) {
      std::map<std::string, HeldTensor> tensors = ReadCheckpoint(in);
      HeldTensor& weight = tensors.at(name);
      weight = {dtype, weight.shape,
                std::string(weight.shape[0] * formats::DtypeBits(dtype) / 8, '\1')};
      WriteTensors(tensors, in, dir_ / "in");
      for (const Error& error :
           {ErrorOf([&] { Convert(dir_ / "in", dir_ / "out"); }), ErrorOf(layout)}) {
        EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
        EXPECT_EQ(error.place().tensor, name);
        EXPECT_THAT(error.message(), HasSubstr(std::string(formats::DtypeName(dtype))));
        EXPECT_FALSE(fs::exists(dir_ / "out"));
      }
    }
  }
}

// The weights of training are BF16 or F32, and those of a release have scales.
TEST_F(TrainToInferTest, RefusesFp8WithoutItsScales) {
  const std::string name = "model.layers.1.mlp.experts.3.gate_proj.weight";
  const fs::path in = Bf16Sample();
  const auto refused = [&](const std::map<std::string, HeldTensor>& tensors,
                           const fs::path& config_of) {
    WriteTensors(tensors, config_of, dir_ / "in");
    const Error error = ErrorOf([&] { Convert(dir_ / "in", dir_ / "out"); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    EXPECT_FALSE(fs::exists(dir_ / "out"));
    return error;
  };
  std::map<std::string, HeldTensor> tensors = ReadCheckpoint(dir_ / "fp8");
  const HeldTensor scale = tensors.at(name + "_scale_inv");
  tensors.erase(name + "_scale_inv");
  Error error = refused(tensors, dir_ / "fp8");
  EXPECT_EQ(error.place().tensor, name);
  EXPECT_THAT(error.message(), HasSubstr("has no scale"));
  HeldTensor& narrow = tensors[name + "_scale_inv"] = scale;
  narrow = {formats::Dtype::kI32, scale.shape, scale.bytes};
  EXPECT_THAT(refused(tensors, dir_ / "fp8").message(), HasSubstr("is I32, expected F32"));
  // Beside another dtype, and in a checkpoint whose config knows of no scales.
  tensors = ReadCheckpoint(in);
  tensors.emplace(name + "_scale_inv", scale);
  EXPECT_THAT(refused(tensors, dir_ / "fp8").message(), HasSubstr("which is BF16 and not FP8"));
  EXPECT_THAT(refused(ReadCheckpoint(dir_ / "fp8"), in).message(),
              HasSubstr("there is no quantization_config"));
}

// As torch.compile and DDP name the tensors of a model that is saved as it is.
TEST_F(TrainToInferTest, TakesWhatWrappersAddFromTheNamesOfSafetensors) {
  const fs::path in = Bf16Sample();
  const std::map<std::string, HeldTensor> expected = ReadCheckpoint(in);
  for (const std::string prefix : {"_orig_mod.", "module."}) {
    std::map<std::string, HeldTensor> wrapped;
    for (const auto& [name, tensor] : expected) wrapped.emplace(prefix + name, tensor);
    WriteTensors(wrapped, in, dir_ / "in");
    WriteFile(dir_ / "in" / "tokenizer.json", "{}");
    Convert(dir_ / "in", dir_ / "out");
    EXPECT_TRUE(ReadCheckpoint(dir_ / "out") == expected) << prefix;
    EXPECT_TRUE(fs::exists(dir_ / "out" / "tokenizer.json"));
    const Error error = ErrorOf(
        [&] { Convert(dir_ / "in", dir_ / "other", {.from = convert::Stack::kTorchtitan}); });
    EXPECT_THAT(error.message(), HasSubstr("so the checkpoint is not from torchtitan"));
    fs::remove_all(dir_ / "in");
    fs::remove_all(dir_ / "out");
  }
}

// Of an input without shards of the model's: the file that there is.
TEST_F(TrainToInferTest, NamesTheFileOfAWeightThatNoModelHas) {
  const fs::path in = Bf16Sample();
  const std::string file = "model0-mp1.safetensors";
  Conversion(in, dir_ / "demo", convert::LayoutConversion({.to = "deepseek"})).Run();
  TinyCheckpoint demo;
  demo.config = ReadFile(in / "config.json");
  demo.has_index = false;
  for (const auto& [name, tensor] : ReadTensors(dir_ / "demo" / file)) {
    const bool norm = name == "norm.weight";
    demo.Add(file, name, norm ? formats::Dtype::kF64 : tensor.dtype, tensor.shape).bytes =
        norm ? std::string(tensor.shape[0] * 8, '\1') : tensor.bytes;
  }
  demo.Write(dir_ / "in");
  const Error error = ErrorOf([&] { Convert(dir_ / "in", dir_ / "out"); });
  EXPECT_THAT(error.message(), HasSubstr(file + ": tensor 'model.norm.weight' is F64"));
  EXPECT_EQ(error.place().file, file);
}

}  // namespace
}  // namespace dsv3::testing
