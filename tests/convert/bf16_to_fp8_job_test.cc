#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/job.h"
#include "convert/recipes/sample.h"
#include "formats/json/json_edit.h"
#include "formats/manifest.h"
#include "formats/safetensors.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// The files that bf16-to-fp8 makes, and what it refuses.
namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::ReadFile;
using testing::ReadTree;
using ::testing::SizeIs;
using testing::WriteFile;
using Json = nlohmann::json;

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kManifest = "checkpoint.manifest.json";
constexpr const char* kQAProj = "model.layers.0.self_attn.q_a_proj.weight";
constexpr const char* kOProj = "model.layers.0.self_attn.o_proj.weight";

// A tensor of a checkpoint on the disk.
struct Place {
  fs::path file;
  formats::SafetensorsTensor entry;
  std::uint64_t offset = 0;
};

Place FindTensor(const fs::path& directory, const std::string& name) {
  for (const auto& file : fs::directory_iterator(directory)) {
    if (file.path().extension() != ".safetensors") continue;
    const auto header = formats::ReadSafetensorsHeader(file.path(), "");
    for (const auto& tensor : header.tensors) {
      if (tensor.name == name) return {file.path(), tensor, header.data_offset + tensor.begin};
    }
  }
  return {};
}

std::string TensorBytes(const fs::path& directory, const std::string& name) {
  const Place place = FindTensor(directory, name);
  if (place.file.empty()) return {};
  return ReadFile(place.file)
      .substr(static_cast<std::size_t>(place.offset),
              static_cast<std::size_t>(place.entry.end - place.entry.begin));
}

void Poke(const fs::path& directory, const std::string& tensor, std::uint64_t at,
          const std::string& bytes) {
  const Place place = FindTensor(directory, tensor);
  std::string content = ReadFile(place.file);
  content.replace(static_cast<std::size_t>(place.offset + at), bytes.size(), bytes);
  WriteFile(place.file, content);
}

// A sample checkpoint of the family and its BF16 form, which tests may spoil.
class Bf16ToFp8JobTest : public ::testing::Test {
 protected:
  fs::path fp8() const { return dir_ / "fp8"; }
  fs::path bf16() const { return dir_ / "bf16"; }
  fs::path out() const { return dir_ / "out"; }

  void MakeSample(std::uint64_t seed = 1) {
    ProgressSink progress;
    const StopToken stop;
    WriteSample({SamplePreset::kTiny, seed}, fp8(), quick_, progress);
    ConversionRequest request;
    request.input = fp8();
    request.output = bf16();
    ConvertFp8ToBf16(request, quick_, progress, stop);
  }

  ConversionReport Convert() {
    request_.input = bf16();
    request_.output = out();
    ProgressSink progress;
    const StopToken stop;
    report_ = ConvertBf16ToFp8(request_, quick_, progress, stop);
    return report_;
  }
  Bf16ToFp8Options& options() { return request_.bf16_to_fp8; }

  void ExpectRefused(ErrorCode code, const std::vector<std::string>& words) {
    const Error error = ErrorOf([&] { Convert(); });
    EXPECT_EQ(error.code(), code) << error.message();
    for (const std::string& word : words) EXPECT_THAT(error.message(), HasSubstr(word));
    EXPECT_FALSE(fs::exists(out() / kManifest));
  }

  Json Config() const { return Json::parse(ReadFile(out() / "config.json")); }
  void EditConfig(const std::string& member, const std::string& json) {
    const std::string text = ReadFile(bf16() / "config.json");
    WriteFile(bf16() / "config.json", formats::AppendJsonMember(text, member, json, "config.json"));
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  testing::QuickFileSystem quick_;
  ConversionRequest request_;
  ConversionReport report_;
};

TEST_F(Bf16ToFp8JobTest, GivesTheOriginalBackToTheByte) {
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    fs::remove_all(fp8());
    fs::remove_all(bf16());
    fs::remove_all(out());
    MakeSample(seed);
    options().scales_from = fp8();
    Convert();
    std::map<std::string, std::string> tree = ReadTree(out());
    EXPECT_EQ(tree.erase(kManifest), 1U);
    EXPECT_TRUE(tree == ReadTree(fp8())) << "seed " << seed;
    ASSERT_THAT(report_.quality, SizeIs(136));
    for (const TensorQuality& each : report_.quality) {
      EXPECT_EQ(each.quality.kept_blocks, each.quality.blocks) << each.tensor;
      EXPECT_EQ(each.quality.changed_codes, 0U);
    }
  }
}

TEST_F(Bf16ToFp8JobTest, QuantisesEditedBlocksAlone) {
  MakeSample();
  // Element [0, 200] of q_a_proj, in its second block.
  Poke(bf16(), kQAProj, 2 * 200, std::string("\x40\x40", 2));
  options().scales_from = fp8();
  Convert();
  const std::string before = TensorBytes(fp8(), kQAProj);
  const std::string after = TensorBytes(out(), kQAProj);
  const std::uint64_t cols = FindTensor(fp8(), kQAProj).entry.shape[1];
  ASSERT_EQ(before.size(), after.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    const bool edited = i / cols < 128 && i % cols >= 128 && i % cols < 256;
    if (edited) continue;
    ASSERT_EQ(before[i], after[i]) << "element " << i;
  }
  EXPECT_EQ(after[200], '\x7e') << "3 is the largest value of its block: 448";
  const std::string scale = TensorBytes(out(), std::string(kQAProj) + "_scale_inv");
  float edited_scale = 0;
  std::memcpy(&edited_scale, scale.data() + sizeof(float), sizeof(float));
  EXPECT_EQ(edited_scale, 3.0F / 448.0F);
  std::size_t edited_tensors = 0;
  for (const TensorQuality& each : report_.quality) {
    if (each.quality.kept_blocks == each.quality.blocks) continue;
    ++edited_tensors;
    EXPECT_EQ(each.tensor, kQAProj);
    EXPECT_EQ(each.quality.blocks - each.quality.kept_blocks, 1U);
    EXPECT_GT(each.quality.changed_codes, 0U);
  }
  EXPECT_EQ(edited_tensors, 1U);
  // Shards without an edit are the original's files.
  std::size_t equal = 0;
  const std::map<std::string, std::string> originals = ReadTree(fp8());
  for (const auto& [name, content] : ReadTree(out())) {
    const auto original = originals.find(name);
    equal += original != originals.end() && original->second == content ? 1U : 0U;
  }
  EXPECT_EQ(equal, originals.size() - 1);
}

TEST_F(Bf16ToFp8JobTest, QuantisesWhatTheReleasesQuantise) {
  MakeSample();
  Convert();
  // Shapes and dtypes of all tensors are those of the release.
  const Json theirs = Json::parse(ReadFile(fp8() / kIndex))["weight_map"];
  const Json ours = Json::parse(ReadFile(out() / kIndex))["weight_map"];
  EXPECT_EQ(ours.size(), theirs.size());
  for (const auto& [name, shard] : theirs.items()) {
    const Place a = FindTensor(fp8(), name);
    const Place b = FindTensor(out(), name);
    ASSERT_FALSE(b.file.empty()) << name;
    EXPECT_EQ(a.entry.dtype, b.entry.dtype) << name;
    EXPECT_EQ(a.entry.shape, b.entry.shape) << name;
    if (name.ends_with("_scale_inv")) {
      const std::string weight = name.substr(0, name.size() - std::strlen("_scale_inv"));
      EXPECT_EQ(ours[name], ours[weight]) << "a scale goes beside its weight";
    } else {
      EXPECT_EQ(ours[name], shard) << "the source's assignment is kept";
    }
  }
  // Equal codes: these weights came from codes whose largest is 448.
  EXPECT_EQ(TensorBytes(out(), kOProj), TensorBytes(fp8(), kOProj));
}

TEST_F(Bf16ToFp8JobTest, WritesTheConfigAsDeepSeekDoes) {
  MakeSample();
  Convert();
  EXPECT_EQ(Config()["quantization_config"].dump(),
            R"({"activation_scheme":"dynamic","fmt":"e4m3","quant_method":"fp8",)"
            R"("weight_block_size":[128,128]})");
  EXPECT_EQ(Config()["torch_dtype"], "bfloat16");
  // All else is the source's, byte for byte.
  EXPECT_EQ(formats::RemoveJsonMember(ReadFile(out() / "config.json"), "quantization_config", ""),
            ReadFile(bf16() / "config.json"));
}

TEST_F(Bf16ToFp8JobTest, WritesEveryFormOfScales) {
  MakeSample();
  struct Case {
    Bf16ToFp8Options options;
    std::string scale_suffix;
    formats::Dtype dtype;
    formats::Shape shape;  // of q_a_proj's scale, [192, 256] weight
    std::string config;    // what the config holds
  };
  using quant::BlockForm;
  using quant::QuantizeRecipe;
  using quant::ScaleFmt;
  const formats::Shape weight =
      FindTensor(bf16(), "model.layers.0.self_attn.kv_a_proj_with_mqa.weight").entry.shape;
  const std::uint64_t rows = weight[0];
  const std::uint64_t cols = weight[1];
  const auto ceil = [](std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; };
  std::vector<Case> cases(8);
  cases[0] = {{},
              ".weight_scale_inv",
              formats::Dtype::kF32,
              {ceil(rows, 128), ceil(cols, 128)},
              "[128,128]"};
  cases[1] = {{},
              ".weight_scale_inv",
              formats::Dtype::kF32,
              {ceil(rows, 128), ceil(cols, 128)},
              "\"scale_fmt\":\"ue8m0\""};
  cases[1].options.scale_fmt = ScaleFmt::kUe8m0;
  cases[2] = {{}, ".scale", formats::Dtype::kF8E8M0, {ceil(rows, 32), ceil(cols, 32)}, "[32,32]"};
  cases[2].options.scale_fmt = ScaleFmt::kE8M0;
  cases[2].options.scale_name = ScaleNaming::kScale;
  cases[2].options.block = QuantizeBlock{BlockForm::kBlock, {32, 32}};
  cases[3] = {{}, ".weight_scale_inv", formats::Dtype::kF8E8M0, {rows, ceil(cols, 128)}, "[1,128]"};
  cases[3].options.scale_fmt = ScaleFmt::kE8M0;
  cases[3].options.recipe = QuantizeRecipe::kTransformers;
  cases[3].options.block = QuantizeBlock{BlockForm::kBlock, {1, 128}};
  cases[4] = {{},
              ".weight_scale",
              formats::Dtype::kBF16,
              {ceil(rows, 128), ceil(cols, 128)},
              "\"block_structure\":[128,128]"};
  cases[4].options.recipe = QuantizeRecipe::kLlmCompressor;
  cases[5] = {{}, ".weight_scale", formats::Dtype::kF32, {rows, 1}, "\"strategy\":\"channel\""};
  cases[5].options.block = QuantizeBlock{BlockForm::kRow, {}};
  cases[6] = {{}, ".weight_scale", formats::Dtype::kF32, {1}, "\"strategy\":\"tensor\""};
  cases[6].options.block = QuantizeBlock{BlockForm::kTensor, {}};
  cases[7] = {
      {}, ".weight_scale_inv", formats::Dtype::kF32, {ceil(rows, 48), ceil(cols, 40)}, "[48,40]"};
  cases[7].options.recipe = QuantizeRecipe::kDeepGemm;
  cases[7].options.block = QuantizeBlock{BlockForm::kBlock, {48, 40}};
  for (const Case& each : cases) {
    SCOPED_TRACE(each.config);
    fs::remove_all(out());
    options() = each.options;
    Convert();
    const Place scale =
        FindTensor(out(), "model.layers.0.self_attn.kv_a_proj_with_mqa" + each.scale_suffix);
    ASSERT_FALSE(scale.file.empty());
    EXPECT_EQ(scale.entry.dtype, each.dtype);
    EXPECT_EQ(scale.entry.shape, each.shape);
    EXPECT_THAT(Config()["quantization_config"].dump(), HasSubstr(each.config));
    // What was written is read again: to BF16, and from there back to the same bytes.
    const fs::path again = dir_ / "again";
    fs::remove_all(again);
    ConversionRequest back;
    back.input = out();
    back.output = again;
    ProgressSink progress;
    const StopToken stop;
    ConvertFp8ToBf16(back, quick_, progress, stop);
    ConversionRequest forth;
    forth.input = again;
    forth.output = dir_ / "forth";
    forth.bf16_to_fp8.scales_from = out();
    fs::remove_all(forth.output);
    ConvertBf16ToFp8(forth, quick_, progress, stop);
    auto expected = ReadTree(out());
    auto tree = ReadTree(forth.output);
    expected.erase(kManifest);
    tree.erase(kManifest);
    EXPECT_TRUE(tree == expected);
  }
}

TEST_F(Bf16ToFp8JobTest, HonoursAndWritesModulesNotToConvert) {
  MakeSample();
  EditConfig("quantization_config",
             R"({"quant_method": "fp8", "modules_to_not_convert": ["layers.0.mlp", "lm_head"]})");
  options().exclude = {"*.q_a_proj.weight"};
  options().include = {"lm_head.weight"};
  Convert();
  EXPECT_EQ(FindTensor(out(), "model.layers.0.mlp.up_proj.weight").entry.dtype,
            formats::Dtype::kBF16);
  EXPECT_EQ(FindTensor(out(), "lm_head.weight").entry.dtype, formats::Dtype::kF8E4M3);
  EXPECT_EQ(report_.warnings.at(0).kind, "stale-quantization-config");
  const Json list = Config()["quantization_config"]["modules_to_not_convert"];
  EXPECT_THAT(list.get<std::vector<std::string>>(),
              AllOf(Contains("layers.0.mlp"), Contains("model.layers.0.self_attn.q_a_proj"),
                    Not(Contains("lm_head")), Not(Contains("model.layers.0.mlp.up_proj"))));
}

TEST_F(Bf16ToFp8JobTest, HonoursTheListThatTheManifestKept) {
  MakeSample();
  fs::remove_all(bf16());
  const std::string kept = R"({"activation_scheme": "dynamic", "fmt": "e4m3",
     "modules_to_not_convert": ["model.layers.9"], "quant_method": "fp8",
     "weight_block_size": [128, 128]})";
  WriteFile(fp8() / "config.json",
            formats::ReplaceJsonMember(ReadFile(fp8() / "config.json"), "quantization_config", kept,
                                       "config.json"));
  ConversionRequest request;
  request.input = fp8();
  request.output = bf16();
  ProgressSink progress;
  const StopToken stop;
  ConvertFp8ToBf16(request, quick_, progress, stop);
  Convert();
  // It says what was written, so it stands there as it was spelled.
  EXPECT_THAT(ReadFile(out() / "config.json"), HasSubstr(kept));
}

TEST_F(Bf16ToFp8JobTest, ExcludeWinsOverInclude) {
  MakeSample();
  options().include = {"lm_head.weight", "*eh_proj.weight"};
  options().exclude = {"lm_*"};
  Convert();
  EXPECT_EQ(FindTensor(out(), "lm_head.weight").entry.dtype, formats::Dtype::kBF16);
  EXPECT_EQ(FindTensor(out(), "model.layers.4.eh_proj.weight").entry.dtype,
            formats::Dtype::kF8E4M3);
}

TEST_F(Bf16ToFp8JobTest, RefusesWhatIsNoBf16Checkpoint) {
  MakeSample();
  request_.input = fp8();
  request_.output = out();
  ProgressSink progress;
  const StopToken stop;
  const Error error = ErrorOf([&] { ConvertBf16ToFp8(request_, quick_, progress, stop); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("is an FP8 checkpoint already"));
}

TEST_F(Bf16ToFp8JobTest, RefusesGlobsThatMatchNothingOrTooMuch) {
  MakeSample();
  options().include = {"no.such.*"};
  ExpectRefused(ErrorCode::kUsage, {"--include 'no.such.*'", "no tensor"});
  options().include = {"model.norm.weight"};
  ExpectRefused(ErrorCode::kBadInput, {"model.norm.weight", "shape [256]", "--exclude"});
  options().include.clear();
  options().exclude = {"*"};
  ExpectRefused(ErrorCode::kUsage, {"--exclude leaves no tensor"});
  options().exclude = {"nothing.here"};
  Convert();
  EXPECT_EQ(report_.warnings.at(0).kind, "useless-exclude");
}

TEST_F(Bf16ToFp8JobTest, RefusesFormsThatAToolLacks) {
  using quant::QuantizeRecipe;
  options().recipe = QuantizeRecipe::kLlmCompressor;
  options().scale_fmt = quant::ScaleFmt::kE8M0;
  ExpectRefused(ErrorCode::kUsage, {"--recipe llm-compressor", "--scale-fmt e8m0"});
  options().scale_fmt.reset();
  options().scale_name = ScaleNaming::kScale;
  ExpectRefused(ErrorCode::kUsage, {"--scale-name scale contradicts --recipe llm-compressor"});
  options().recipe = QuantizeRecipe::kTransformers;
  options().scale_name.reset();
  options().block = QuantizeBlock{quant::BlockForm::kRow, {}};
  ExpectRefused(ErrorCode::kUsage, {"--recipe transformers", "--block row"});
  options().recipe.reset();
  options().scale_name = ScaleNaming::kScaleInv;
  ExpectRefused(ErrorCode::kUsage, {"--scale-name weight_scale_inv contradicts --block row"});
}

TEST_F(Bf16ToFp8JobTest, NamesTensorRowAndColumnOfANan) {
  MakeSample();
  const std::uint64_t cols = FindTensor(bf16(), kOProj).entry.shape[1];
  Poke(bf16(), kOProj, 2 * (130 * cols + 7), std::string("\xc0\x7f", 2));
  Poke(bf16(), kOProj, 2 * (130 * cols + 9), std::string("\x80\xff", 2));
  ExpectRefused(ErrorCode::kBadInput, {kOProj, "NaN", "row 130, column 7", "--nonfinite saturate"});
  options().block = QuantizeBlock{quant::BlockForm::kTensor, {}};
  fs::remove_all(out());
  ExpectRefused(ErrorCode::kBadInput, {kOProj, "NaN", "row 130, column 7"});
  fs::remove_all(out());
  options().nonfinite = quant::Nonfinite::kSaturate;
  Convert();
  for (const TensorQuality& each : report_.quality) {
    EXPECT_EQ(each.quality.nonfinite, each.tensor == kOProj ? 2U : 0U) << each.tensor;
  }
}

TEST_F(Bf16ToFp8JobTest, RefusesAnUnknownModelUnlessTensorsAreNamed) {
  testing::TinyCheckpoint checkpoint;
  checkpoint.config = R"({"model_type": "tiny_for_tests"})";
  checkpoint.Add("model.safetensors", "a.weight", formats::Dtype::kBF16, {4, 8});
  checkpoint.Add("model.safetensors", "b.weight", formats::Dtype::kBF16, {4, 8});
  checkpoint.Add("model.safetensors", "norm.weight", formats::Dtype::kF32, {8});
  checkpoint.has_index = false;
  checkpoint.Write(bf16());
  options().nonfinite = quant::Nonfinite::kSaturate;
  ExpectRefused(ErrorCode::kBadInput, {"tiny_for_tests", "--include"});
  options().include = {"a.*"};
  Convert();
  EXPECT_EQ(report_.converted_tensors, 1U);
  EXPECT_EQ(Config()["quantization_config"]["modules_to_not_convert"], Json({"b"}));
}

TEST_F(Bf16ToFp8JobTest, QuantisesFusedExpertsAsMatrices) {
  testing::TinyCheckpoint checkpoint;
  checkpoint.config = R"({"model_type": "tiny_for_tests"})";
  std::string bytes;
  for (int expert = 0; expert < 3; ++expert) {
    for (int i = 0; i < 6 * 4; ++i) bytes += std::string("\x80") + static_cast<char>(0x3f + expert);
  }
  checkpoint.tensors.push_back(
      {"model.safetensors", "experts.gate_up_proj", formats::Dtype::kBF16, {3, 6, 4}, bytes});
  checkpoint.has_index = false;
  checkpoint.Write(bf16());
  options().include = {"experts.*"};
  options().block = QuantizeBlock{quant::BlockForm::kBlock, {4, 4}};
  Convert();
  const Place scale = FindTensor(out(), "experts.gate_up_proj_scale_inv");
  EXPECT_EQ(scale.entry.shape, (formats::Shape{3, 2, 1}));
  const std::string scales = TensorBytes(out(), "experts.gate_up_proj_scale_inv");
  std::vector<float> values(6);
  std::memcpy(values.data(), scales.data(), scales.size());
  // BF16 0x3f80 is 1, 0x4080 is 4, 0x4180 is 16.
  EXPECT_THAT(values, ElementsAre(1.0F / 448, 1.0F / 448, 4.0F / 448, 4.0F / 448, 16.0F / 448,
                                  16.0F / 448));
  EXPECT_EQ(TensorBytes(out(), "experts.gate_up_proj"), std::string(72, '\x7e'));
  Poke(bf16(), "experts.gate_up_proj", 2 * (24 + 5), std::string("\x80\x7f", 2));
  fs::remove_all(out());
  ExpectRefused(ErrorCode::kBadInput, {"matrix 1, row 1, column 1", "infinite"});
}

TEST_F(Bf16ToFp8JobTest, CopiesWeightsThatAreFp8Already) {
  testing::TinyCheckpoint checkpoint;
  checkpoint.config = R"({"model_type": "tiny_for_tests"})";
  checkpoint.Add("model.safetensors", "a.weight", formats::Dtype::kF32, {4, 8}).bytes =
      std::string(128, '\0');
  const std::string codes =
      checkpoint.Add("model.safetensors", "b.weight", formats::Dtype::kF8E4M3, {4, 8}).bytes;
  checkpoint.AddScale("model.safetensors", "b.weight_scale_inv", formats::Dtype::kF32, {1, 1});
  checkpoint.has_index = false;
  checkpoint.Write(bf16());
  options().include = {"a.*"};
  Convert();
  EXPECT_EQ(TensorBytes(out(), "b.weight"), codes);
  EXPECT_THAT(report_.already_fp8, ElementsAre("b.weight"));
  ASSERT_THAT(report_.warnings, Not(IsEmpty()));
  EXPECT_THAT(report_.warnings.back().message, HasSubstr("'b.weight'"));
  // A block of zeros has the scale 1.
  EXPECT_EQ(TensorBytes(out(), "a.weight_scale_inv"), std::string("\0\0\x80\x3f", 4));
  fs::remove_all(out());
  options().block = QuantizeBlock{quant::BlockForm::kBlock, {2, 2}};
  ExpectRefused(ErrorCode::kBadInput, {"b.weight_scale_inv", "[1, 1]", "[2, 4]"});
}

TEST_F(Bf16ToFp8JobTest, RefusesOptionsThatContradictTheOriginal) {
  MakeSample();
  options().scales_from = fp8();
  using quant::BlockForm;
  options().block = QuantizeBlock{BlockForm::kBlock, {32, 32}};
  ExpectRefused(ErrorCode::kUsage, {"--block 32x32 contradicts --scales-from", "128x128"});
  options().block = QuantizeBlock{};  // 128 × 128, as there
  options().scale_fmt = quant::ScaleFmt::kUe8m0;
  ExpectRefused(ErrorCode::kUsage, {"--scale-fmt ue8m0 contradicts", "has f32 scales"});
  options().scale_fmt = quant::ScaleFmt::kF32;
  options().scale_name = ScaleNaming::kScale;
  ExpectRefused(ErrorCode::kUsage, {"--scale-name scale contradicts"});
  options().scale_name = ScaleNaming::kScaleInv;
  options().recipe = quant::QuantizeRecipe::kLlmCompressor;
  ExpectRefused(ErrorCode::kUsage, {"--recipe llm-compressor contradicts", "F32"});
  options().recipe = quant::QuantizeRecipe::kDeepGemm;
  options().include = {"lm_head.weight"};
  ExpectRefused(ErrorCode::kUsage, {"--include 'lm_head.weight' contradicts"});
  options().include = {kOProj};
  options().exclude = {"*o_proj*"};
  ExpectRefused(ErrorCode::kUsage, {"--exclude '*o_proj*' contradicts"});
  options().exclude = {"lm_head.weight"};
  Convert();
  EXPECT_EQ(TensorBytes(out(), kOProj), TensorBytes(fp8(), kOProj));
}

TEST_F(Bf16ToFp8JobTest, RefusesAnotherOriginalByItsDigests) {
  MakeSample();
  ProgressSink progress;
  WriteSample({SamplePreset::kTiny, 99}, dir_ / "other", quick_, progress);
  options().scales_from = dir_ / "other";
  ExpectRefused(ErrorCode::kBadInput, {"is not the one that the source was made with", kManifest});
  // Without the manifest names and shapes decide.
  fs::remove(bf16() / kManifest);
  Convert();
  std::uint64_t kept = 0;
  for (const TensorQuality& each : report_.quality) kept += each.quality.kept_blocks;
  EXPECT_EQ(kept, 0U);
}

TEST_F(Bf16ToFp8JobTest, RefusesAnOriginalWithOtherTensors) {
  MakeSample();
  options().scales_from = bf16();
  ExpectRefused(ErrorCode::kBadInput, {"--scales-from", "no FP8 checkpoint"});
  options().scales_from = dir_ / "nowhere";
  ExpectRefused(ErrorCode::kBadInput, {"--scales-from", "nowhere"});
  // One tensor more, or one of another shape.
  const testing::TinyCheckpoint tiny = testing::SmallFp8Checkpoint();
  tiny.Write(dir_ / "tiny");
  options().scales_from = dir_ / "tiny";
  ExpectRefused(ErrorCode::kBadInput, {"--scales-from"});
}

TEST_F(Bf16ToFp8JobTest, KeepsAnEditedConfigBesideTheOriginalsQuantization) {
  MakeSample();
  EditConfig("my_field", "17");
  options().scales_from = fp8();
  Convert();
  EXPECT_EQ(Config()["my_field"], 17);
  EXPECT_EQ(Config()["quantization_config"],
            Json::parse(ReadFile(fp8() / "config.json"))["quantization_config"]);
}

TEST_F(Bf16ToFp8JobTest, ManifestTellsEverythingThatDecidesBytes) {
  MakeSample();
  options().scales_from = fp8();
  Convert();
  const Json manifest = Json::parse(ReadFile(out() / kManifest));
  EXPECT_EQ(manifest["recipe"], "bf16-to-fp8");
  EXPECT_EQ(manifest["options"], Json({{"recipe", "deepseek"},
                                       {"scale_fmt", "f32"},
                                       {"block", "128x128"},
                                       {"scale_name", "weight_scale_inv"},
                                       {"include", Json::array()},
                                       {"exclude", Json::array()},
                                       {"nonfinite", "error"},
                                       {"scales_from", true},
                                       {"checksum", "sha256"},
                                       {"tensor_sha256", false}}));
  // A scale that was found before its file was written has the weight's digest, too.
  const formats::Manifest parsed = formats::ParseManifest(ReadFile(out() / kManifest), kManifest);
  EXPECT_EQ(parsed.tensors.size(), 309U);
  // The same bytes whatever the threads and memory.
  const auto tree = ReadTree(out());
  fs::remove_all(out());
  request_.run.threads = 3;
  request_.run.memory_bytes = std::uint64_t{8} << 20;
  Convert();
  EXPECT_TRUE(ReadTree(out()) == tree);
}

TEST_F(Bf16ToFp8JobTest, DeletesTheSourceAndNeverTheOriginal) {
  MakeSample();
  const auto original = ReadTree(fp8());
  options().scales_from = fp8();
  request_.run.delete_source_shards = true;
  Convert();
  EXPECT_EQ(report_.freed_source_shards, 4U);
  EXPECT_TRUE(ReadTree(fp8()) == original);
  EXPECT_EQ(Convert().outcome, ConversionReport::Outcome::kNothingToDo);
}

}  // namespace
}  // namespace dsv3::convert
