#include "tests/convert/recipes/repack_test.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/stream/executor.h"
#include "formats/manifest.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/thread_sharing.h"

// What repack writes, against tensors that are made here from the forms' definitions.
namespace dsv3::testing {
namespace {

using nlohmann::json;

std::uint8_t ByteOf(const TinyTensor& tensor, std::uint64_t at) {
  return static_cast<std::uint8_t>(tensor.bytes[at]);
}

// The E4M3 code of a value that has one; the sign of zero counts.
std::uint8_t E4M3CodeOf(float value) {
  static const auto kCodes = [] {
    std::map<std::uint32_t, std::uint8_t> codes;
    for (unsigned code = 0; code < 256; ++code) {
      if ((code & 0x7F) == 0x7F) continue;
      const auto byte = static_cast<std::uint8_t>(code);
      codes.emplace(std::bit_cast<std::uint32_t>(E4M3Value(byte)), byte);
    }
    return codes;
  }();
  return kCodes.at(std::bit_cast<std::uint32_t>(value));
}

// The message of the warning on activations; empty where there is none.
std::string UncalibratedWarning(const convert::ConversionReport& report) {
  for (const formats::Finding& warning : report.warnings) {
    if (warning.kind == "uncalibrated-activations") return warning.message;
  }
  return "";
}

// The largest scale in a block of an MXFP4 weight.
int LargestIn(const TinyTensor& scale, std::uint64_t rows, std::uint64_t cols,
              std::uint64_t block_row, std::uint64_t block_col) {
  int largest = 0;
  for (std::uint64_t row = block_row * rows; row < std::min(kV4Rows, (block_row + 1) * rows);
       ++row) {
    for (std::uint64_t col = block_col * cols; col < std::min(kV4Cols, (block_col + 1) * cols);
         ++col) {
      largest = std::max<int>(largest, ByteOf(scale, row * (kV4Cols / 32) + col / 32));
    }
  }
  return largest;
}

std::uint64_t Blocks(std::uint64_t extent, std::uint64_t block) {
  return (extent + block - 1) / block;
}

TinyTensor ExpectedFp8Scale(const TinyTensor& scale, const std::string& name, Dtype dtype,
                            std::uint64_t rows, std::uint64_t cols) {
  TinyTensor made{scale.shard, name, dtype, {Blocks(kV4Rows, rows), Blocks(kV4Cols, cols)}, ""};
  for (std::uint64_t row = 0; row < made.shape[0]; ++row) {
    for (std::uint64_t col = 0; col < made.shape[1]; ++col) {
      const int byte = std::max(0, LargestIn(scale, rows, cols, row, col) - 6);
      const float value = std::ldexp(1.0F, byte - 127);
      if (dtype == Dtype::kF32) {
        made.bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
      } else {
        made.bytes += static_cast<char>(byte);
      }
    }
  }
  return made;
}

TinyTensor ExpectedFp8(const TinyTensor& codes, const TinyTensor& scale, const std::string& name,
                       std::uint64_t rows, std::uint64_t cols) {
  TinyTensor made{codes.shard, name, Dtype::kF8E4M3, {kV4Rows, kV4Cols}, ""};
  std::map<std::pair<std::uint64_t, std::uint64_t>, int> largest;
  for (std::uint64_t i = 0; i < kV4Rows * kV4Cols; ++i) {
    const std::pair block(i / kV4Cols / rows, i % kV4Cols / cols);
    const auto [found, is_new] = largest.emplace(block, 0);
    if (is_new) found->second = LargestIn(scale, rows, cols, block.first, block.second);
    const int shift = ByteOf(scale, i / 32) - std::max(0, found->second - 6);
    made.bytes += static_cast<char>(E4M3CodeOf(std::ldexp(E2M1Value(NibbleAt(codes, i)), shift)));
  }
  return made;
}

// The source with FP8 in place of its MXFP4 weights.
TinyCheckpoint ExpectedFp8(TinyCheckpoint source, bool compressed, std::uint64_t rows,
                           std::uint64_t cols) {
  TinyCheckpoint result;
  const std::string codes_end = compressed ? ".weight_packed" : ".weight";
  const std::string scale_end = compressed ? ".weight_scale" : ".scale";
  for (const TinyTensor& tensor : source.tensors) {
    const bool codes =
        tensor.dtype == (compressed ? Dtype::kU8 : Dtype::kI8) && tensor.name.ends_with(codes_end);
    const std::string module =
        tensor.name.substr(0, std::min(tensor.name.rfind('.'), tensor.name.size()));
    if (codes) {
      result.tensors.push_back(
          ExpectedFp8(tensor, source.Find(module + scale_end), module + ".weight", rows, cols));
    } else if (tensor.name.ends_with(scale_end) && tensor.shape[0] == kV4Rows) {
      result.tensors.push_back(
          ExpectedFp8Scale(tensor, module + (compressed ? ".weight_scale_inv" : ".scale"),
                           compressed ? Dtype::kF32 : Dtype::kF8E8M0, rows, cols));
    } else {
      result.tensors.push_back(tensor);
    }
  }
  return result;
}

TEST_F(RepackTest, MakesFp8OfTheExpertsOfV4) {
  const TinyCheckpoint source = V4Checkpoint();
  const convert::ConversionReport report = Repack(source, RepackTarget::kFp8);
  EXPECT_EQ(report.recipe, "repack");
  EXPECT_EQ(report.converted_tensors, 3U);
  EXPECT_EQ(report.copied_tensors, 4U);
  EXPECT_EQ(UncalibratedWarning(report), "");
  const TinyCheckpoint expected = ExpectedFp8(source, false, 128, 128);
  for (const char* const shard : {kTinyShard1, kTinyShard2, kTinyShard3}) {
    EXPECT_TRUE(ReadFile(out() / shard) == expected.ShardBytes(shard)) << shard;
  }
  EXPECT_EQ(ReadFile(out() / "model.safetensors.index.json"), expected.IndexText());
  std::string config = kV4Config;
  config.replace(config.find("fp4"), 3, "fp8");
  EXPECT_EQ(ReadFile(out() / "config.json"), config);
  ExpectSameValues(in(), out());

  // The same bytes whatever the memory and the threads.
  Conversion small = Command(in(), dir_ / "small", RepackTarget::kFp8);
  small.request.run.threads = 2;
  small.request.run.memory_bytes = convert::kMinMemoryBytes;
  small.Run();
  ExpectSameTree(ReadTree(dir_ / "small"), ReadTree(out()));
}

TEST_F(RepackTest, TakesTheBlocksOfTheConfig) {
  TinyCheckpoint source = V4Checkpoint();
  source.DropContaining("wq_a");
  const std::string block = "[128, 128]";
  source.config.replace(source.config.find(block), block.size(), "[32, 64]");
  Repack(source, RepackTarget::kFp8);
  const TinyCheckpoint expected = ExpectedFp8(source, false, 32, 64);
  EXPECT_TRUE(ReadFile(out() / kTinyShard1) == expected.ShardBytes(kTinyShard1));
  EXPECT_TRUE(ReadFile(out() / kTinyShard2) == expected.ShardBytes(kTinyShard2));
  ExpectSameValues(in(), out());

  source.config.replace(source.config.find("[32, 64]"), 8, "[32, 48]");
  EXPECT_THAT(Refusal(source, RepackTarget::kFp8).message(),
              ::testing::HasSubstr("weight_block_size [32, 48] cuts the groups of 32"));
}

TinyCheckpoint CompressedMxFp4() {
  TinyCheckpoint source;
  source.config = fmt::format(
      R"({{"model_type": "tiny", {}}})",
      Compressed("mxfp4-pack-quantized",
                 R"({"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32})"));
  AddMxFp4(source, "model.layers.3.mlp.experts.7.gate_proj", true, 1, 11);
  AddMxFp4(source, "model.layers.3.mlp.experts.7.up_proj", true, 4, 15);
  source.Add(kTinyShard1, "model.layers.3.self_attn.o_proj.weight", Dtype::kBF16, {8, 8});
  source.Add(kTinyShard1, "model.embed_tokens.weight", Dtype::kBF16, {8, 8});
  return source;
}

TEST_F(RepackTest, MakesFp8OfCompressedTensorsWithItsOwnConfig) {
  const TinyCheckpoint source = CompressedMxFp4();
  Repack(source, RepackTarget::kFp8);
  const TinyCheckpoint expected = ExpectedFp8(source, true, 128, 128);
  for (const char* const shard : {kTinyShard1, kTinyShard2}) {
    EXPECT_TRUE(ReadFile(out() / shard) == expected.ShardBytes(shard)) << shard;
  }
  EXPECT_EQ(json::parse(ReadFile(out() / "config.json")), json::parse(R"({"model_type": "tiny",
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
      "modules_to_not_convert": ["model.layers.3.self_attn.o_proj"], "scale_fmt": "ue8m0",
      "weight_block_size": [128, 128]}})"));
  ExpectSameValues(in(), out());
}

// The scale tensors of NVFP4 from MXFP4, where the largest exponent field is `largest`.
std::string ExpectedGroupScales(const TinyTensor& scale, int largest) {
  std::string made;
  for (std::uint64_t i = 0; i < scale.bytes.size(); ++i) {
    const int exponent = std::max(-9, ByteOf(scale, i) - largest + 8);
    made.append(2, static_cast<char>(E4M3CodeOf(std::ldexp(1.0F, exponent))));
  }
  return made;
}

TinyCheckpoint ExpectedNvFp4OfV4(TinyCheckpoint source) {
  TinyCheckpoint result;
  for (const TinyTensor& tensor : source.tensors) {
    if (!tensor.name.starts_with(kExpert)) {
      result.tensors.push_back(tensor);
      continue;
    }
    const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
    if (tensor.dtype == Dtype::kI8) {
      result.tensors.push_back({tensor.shard, tensor.name, Dtype::kU8, tensor.shape, tensor.bytes});
      SetFloat(result.Add(tensor.shard, module + ".input_scale", Dtype::kF32, {}), 1);
      continue;
    }
    // w1 and w3 have one tensor scale; the largest scales are 109, 114 and 117.
    const int largest = module.ends_with("w2") ? 114 : 117;
    result.tensors.push_back({tensor.shard,
                              module + ".weight_scale",
                              Dtype::kF8E4M3,
                              {kV4Rows, kV4Cols / 16},
                              ExpectedGroupScales(tensor, largest)});
    SetFloat(result.Add(tensor.shard, module + ".weight_scale_2", Dtype::kF32, {}),
             std::ldexp(1.0F, largest - 127 - 8));
  }
  return result;
}

TEST_F(RepackTest, MakesNvFp4OfTheExpertsOfV4WithOneTensorScaleForGateAndUp) {
  const TinyCheckpoint source = V4Checkpoint();
  const convert::ConversionReport report = Repack(source, RepackTarget::kNvFp4ModelOpt);
  EXPECT_EQ(report.converted_tensors, 3U);
  EXPECT_THAT(UncalibratedWarning(report), ::testing::HasSubstr("3 weights got the input_scale"));
  const TinyCheckpoint expected = ExpectedNvFp4OfV4(source);
  for (const char* const shard : {kTinyShard1, kTinyShard2, kTinyShard3}) {
    EXPECT_TRUE(ReadFile(out() / shard) == expected.ShardBytes(shard)) << shard;
  }
  EXPECT_EQ(ReadFile(out() / "model.safetensors.index.json"), expected.IndexText());
  json config = json::parse(kV4Config);
  config["quantization_config"]["moe_quant_algo"] = "NVFP4";
  EXPECT_EQ(json::parse(ReadFile(out() / "config.json")), config);
  EXPECT_EQ(json::parse(ReadFile(out() / "hf_quant_config.json")), json::parse(R"({
    "producer": {"name": "modelopt", "version": "0.47.0"},
    "quantization": {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": null,
      "group_size": 16,
      "quantized_layers": {"layers.3.ffn.experts": {"quant_algo": "NVFP4", "group_size": 16}},
      "exclude_modules": []}})"));
  ExpectSameValues(in(), out());
  // Nothing is left to repack there.
  std::filesystem::rename(out(), dir_ / "nvfp4");
  const Error again =
      ErrorOf([&] { Command(dir_ / "nvfp4", out(), RepackTarget::kNvFp4ModelOpt).Run(); });
  EXPECT_EQ(again.code(), ErrorCode::kBadInput);
  EXPECT_THAT(again.message(), ::testing::HasSubstr("nothing to repack"));
}

TEST_F(RepackTest, CompletesACheckpointWhoseMtpExpertsStayedMxFp4) {
  TinyCheckpoint mixed;
  AddMxFp4(mixed, "mtp.0.ffn.experts.7.w2", false);
  const std::string config = R"({"model_type": "deepseek_v4_for_tests", "expert_dtype": "fp4",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128],
      "moe_quant_algo": "NVFP4", "ignore": ["mtp.*"],
      "quantized_layers": {"layers.3.ffn.experts": {"quant_algo": "NVFP4"}}}})";
  mixed.config = config;
  mixed.Add(kTinyShard1, "layers.3.ffn.experts.7.w2.weight", Dtype::kU8, {16, 32});
  MakeE4M3Scales(
      mixed.Add(kTinyShard1, "layers.3.ffn.experts.7.w2.weight_scale", Dtype::kF8E4M3, {16, 4}));
  SetFloat(mixed.Add(kTinyShard1, "layers.3.ffn.experts.7.w2.weight_scale_2", Dtype::kF32, {}), 2);
  mixed.side_files["hf_quant_config.json"] =
      R"({"quantization": {"quant_algo": "MIXED_PRECISION"}})";
  const convert::ConversionReport report = Repack(mixed, RepackTarget::kNvFp4ModelOpt);
  EXPECT_EQ(report.converted_tensors, 1U);
  json expected = json::parse(config);
  expected["quantization_config"].erase("ignore");
  expected["quantization_config"].erase("quantized_layers");
  EXPECT_EQ(json::parse(ReadFile(out() / "config.json")), expected);
  const json layers =
      json::parse(ReadFile(out() / "hf_quant_config.json"))["quantization"]["quantized_layers"];
  EXPECT_EQ(layers.size(), 2U);
  EXPECT_TRUE(layers.contains("mtp.0.ffn.experts"));
  EXPECT_TRUE(layers.contains("layers.3.ffn.experts"));
  ExpectSameValues(in(), out());
}

TEST_F(RepackTest, RecordsRulesAndSourcesInTheManifest) {
  Repack(V4Checkpoint(), RepackTarget::kNvFp4ModelOpt);
  const formats::Manifest manifest = formats::ParseManifest(
      ReadFile(out() / "checkpoint.manifest.json"), "checkpoint.manifest.json");
  std::size_t seen = 0;
  for (const formats::ManifestTensor& tensor : manifest.tensors) {
    const std::string w3 = std::string(kExpert) + "w3";
    if (tensor.name == w3 + ".weight") {
      EXPECT_EQ(tensor.rule, "repack");
      ASSERT_EQ(tensor.sources.size(), 1U);
      EXPECT_EQ(tensor.sources[0].xxh3, tensor.xxh3);  // the same bytes
    } else if (tensor.name == w3 + ".weight_scale_2") {
      EXPECT_EQ(tensor.rule, "repack-scale");
      ASSERT_EQ(tensor.sources.size(), 2U);
      EXPECT_EQ(tensor.sources[0].name, w3 + ".scale");
      EXPECT_EQ(tensor.sources[1].name, std::string(kExpert) + "w1.scale");
      EXPECT_FALSE(tensor.sources[1].xxh3.empty());
    } else if (tensor.name == w3 + ".input_scale") {
      EXPECT_EQ(tensor.rule, "repack-scale");
      EXPECT_TRUE(tensor.sources.empty());
    } else {
      continue;
    }
    ++seen;
  }
  EXPECT_EQ(seen, 3U);
}

TEST_F(RepackTest, MakesNvFp4OfCompressedTensorsInBothForms) {
  const TinyCheckpoint source = CompressedMxFp4();
  Repack(source, RepackTarget::kNvFp4ModelOpt);
  EXPECT_EQ(json::parse(ReadFile(out() / "config.json")), json::parse(R"({"model_type": "tiny"})"));
  const json description = json::parse(ReadFile(out() / "hf_quant_config.json"));
  EXPECT_EQ(description["quantization"]["quant_algo"], "NVFP4");
  EXPECT_EQ(description["quantization"]["exclude_modules"],
            json({"model.layers.3.self_attn.o_proj"}));
  ExpectSameValues(in(), out());

  // The largest scale is 2^-109, so that the tensor scale 2^-117 has an inverse.
  Repack(source, RepackTarget::kNvFp4CompressedTensors);
  const json config = json::parse(ReadFile(out() / "config.json"))["quantization_config"];
  EXPECT_EQ(config["config_groups"]["group_0"]["input_activations"], nullptr);
  EXPECT_EQ(config["format"], "nvfp4-pack-quantized");
  EXPECT_EQ(config["ignore"], json({"model.layers.3.self_attn.o_proj"}));
  EXPECT_FALSE(std::filesystem::exists(out() / "hf_quant_config.json"));
  ExpectSameValues(in(), out());
}

// One NVFP4 weight in the form of a tool.
TinyCheckpoint NvFp4Checkpoint(bool compressed) {
  Made made = NvFp4(compressed);
  made.checkpoint.Add(kTinyShard1, "norm.weight", Dtype::kBF16, {8});
  made.checkpoint.Add(kTinyShard3, "model.layers.3.self_attn.o_proj.weight", Dtype::kBF16, {8, 8});
  return made.checkpoint;
}

float FloatOf(const std::filesystem::path& directory, const std::string& tensor) {
  for (const char* const shard : {kTinyShard1, kTinyShard2, kTinyShard3}) {
    const std::string bytes = ReadFile(directory / shard);
    std::uint64_t size = 0;
    std::memcpy(&size, bytes.data(), sizeof size);
    const json header = json::parse(bytes.substr(8, size));
    if (!header.contains(tensor)) continue;
    float value = 0;
    std::memcpy(&value, bytes.data() + 8 + size + header[tensor]["data_offsets"][0].get<int>(), 4);
    return value;
  }
  ADD_FAILURE() << "no tensor " << tensor;
  return 0;
}

TEST_F(RepackTest, WritesNvFp4InTheFormOfTheOtherToolAndBack) {
  const std::string module = kModule;
  TinyCheckpoint source = NvFp4Checkpoint(false);
  SetFloat(source.Find(module + "input_scale"), 0.3F);
  source.side_files["hf_quant_config.json"] =
      R"({"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}})";
  const convert::ConversionReport report = Repack(source, RepackTarget::kNvFp4CompressedTensors);
  EXPECT_EQ(UncalibratedWarning(report), "");
  ExpectSameValues(in(), out());
  EXPECT_EQ(FloatOf(out(), module + "weight_global_scale"), 1 / 2.7182817F);
  EXPECT_EQ(FloatOf(out(), module + "input_global_scale"), 1 / 0.3F);
  EXPECT_FALSE(std::filesystem::exists(out() / "hf_quant_config.json"));
  EXPECT_EQ(json::parse(ReadFile(out() / "config.json"))["quantization_config"], json::parse(R"({
    "config_groups": {"group_0": {"format": "nvfp4-pack-quantized",
      "input_activations": {"dynamic": "local", "group_size": 16, "num_bits": 4,
        "observer": "static_minmax", "scale_dtype": "torch.float8_e4m3fn",
        "strategy": "tensor_group", "symmetric": true, "type": "float"},
      "output_activations": null, "targets": ["Linear"],
      "weights": {"dynamic": false, "group_size": 16, "num_bits": 4,
        "scale_dtype": "torch.float8_e4m3fn", "strategy": "tensor_group", "symmetric": true,
        "type": "float"}}},
    "format": "nvfp4-pack-quantized", "global_compression_ratio": null,
    "ignore": ["model.layers.3.self_attn.o_proj"],
    "kv_cache_scheme": {"dynamic": false, "num_bits": 8, "strategy": "tensor", "symmetric": true,
      "type": "float"},
    "moe_sparsity_config": null, "quant_method": "compressed-tensors",
    "quantization_status": "compressed", "sparsity_config": {}, "transform_config": {},
    "version": "0.20.0"})"));
  const formats::Manifest manifest = formats::ParseManifest(
      ReadFile(out() / "checkpoint.manifest.json"), "checkpoint.manifest.json");
  ASSERT_EQ(manifest.job.removed_config.size(), 1U);
  EXPECT_EQ(manifest.job.removed_config[0].first, "hf_quant_config.json");

  Command(out(), dir_ / "back", RepackTarget::kNvFp4ModelOpt).Run();
  ExpectSameValues(in(), dir_ / "back");
  const json description = json::parse(ReadFile(dir_ / "back" / "hf_quant_config.json"));
  EXPECT_EQ(description["quantization"]["kv_cache_quant_algo"], "FP8");
  EXPECT_FALSE(
      json::parse(ReadFile(dir_ / "back" / "config.json")).contains("quantization_config"));
  // All but the tensor scales, which may move by a step, are what they were.
  EXPECT_NEAR(FloatOf(dir_ / "back", module + "weight_scale_2"), 2.7182817F, 4e-7F);
}

TEST_F(RepackTest, GivesUncalibratedScalesToModelOptAlone) {
  TinyCheckpoint source = NvFp4Checkpoint(true);
  source.DropContaining("input_global_scale");
  const convert::ConversionReport report = Repack(source, RepackTarget::kNvFp4ModelOpt);
  EXPECT_THAT(UncalibratedWarning(report),
              ::testing::HasSubstr("1 weight got the input_scale 1.0"));
  EXPECT_EQ(FloatOf(out(), std::string(kModule) + "input_scale"), 1);
  ExpectSameValues(in(), out());
}

TEST_F(RepackTest, MakesTheSameInPartsAndByProcessesThatShareIt) {
  const RepackTarget target = RepackTarget::kNvFp4ModelOpt;
  Repack(V4Checkpoint(), target);
  const auto expected = ReadTree(out());
  for (std::uint64_t part = 0; part < 3; ++part) {
    Conversion conversion = Command(in(), dir_ / "parts", target);
    conversion.request.run.part = convert::RunOptions::Part{part, 3};
    conversion.Run();
  }
  Conversion finish = Command(in(), dir_ / "parts", target);
  finish.request.run.finish = true;
  finish.Run();
  ExpectSameTree(ReadTree(dir_ / "parts"), expected);

  ThreadGroup group(3);
  for (const auto& error : group.Run([&](convert::WorkSharing& sharing) {
         Conversion conversion = Command(in(), dir_ / "shared", target);
         conversion.request.run.sharing = &sharing;
         conversion.Run();
       })) {
    EXPECT_FALSE(error) << error->message();
  }
  ExpectSameTree(ReadTree(dir_ / "shared"), expected);
}

}  // namespace
}  // namespace dsv3::testing
