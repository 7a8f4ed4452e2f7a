#include "convert/recipes/sample.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/model/expected_tensors.h"
#include "convert/model/model_check.h"
#include "convert/recipes/sample_config.h"
#include "convert/recipes/sample_model.h"
#include "convert/recipes/sample_values.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "quant/codec.h"
#include "quant/dequantize.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Lt;
using ::testing::SizeIs;

class SampleTest : public ::testing::Test {
 protected:
  SampleReport Write(const std::filesystem::path& out, SamplePreset preset = SamplePreset::kTiny,
                     std::uint64_t seed = 0) {
    ProgressSink progress;
    return WriteSample({preset, seed}, out, formats::PosixFileSystem(), progress);
  }

  static std::string ReadFile(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream content;
    content << in.rdbuf();
    return content.str();
  }

  static std::map<std::string, std::string> ReadDirectory(const std::filesystem::path& path) {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      files[entry.path().filename().string()] = ReadFile(entry.path());
    }
    return files;
  }

  template <typename T>
  static std::vector<T> ReadTensor(const Catalog& catalog, const std::string& name) {
    const CatalogTensor& tensor = catalog.tensors().at(catalog.Find(name));
    std::vector<T> values(tensor.extent.length / sizeof(T));
    std::ifstream in(catalog.files()[tensor.extent.file].path, std::ios::binary);
    in.seekg(static_cast<std::streamoff>(tensor.extent.offset));
    in.read(reinterpret_cast<char*>(values.data()),
            static_cast<std::streamsize>(tensor.extent.length));
    return values;
  }

  dsv3::testing::TempDir directory_;
  const std::filesystem::path root_ = directory_.path();
};

Catalog Open(const std::filesystem::path& path) {
  formats::CheckpointFiles files = formats::OpenCheckpointFiles(path);
  EXPECT_THAT(files.findings, IsEmpty());
  return Catalog::FromCheckpoint(files);
}

TEST_F(SampleTest, TinyIsAConsistentCheckpointThatItsConfigPredicts) {
  const SampleReport report = Write(root_ / "out");
  const Catalog catalog = Open(root_ / "out");
  EXPECT_EQ(catalog.tensors().size(), report.tensors);
  const ModelConfig config =
      ParseModelConfig(ReadFile(root_ / "out" / "config.json"), "config.json");
  EXPECT_THAT(CheckAgainstModel(config, catalog), IsEmpty());
  EXPECT_EQ(config.num_nextn_predict_layers, 1U);

  std::uint64_t bytes = 0;
  const auto files = ReadDirectory(root_ / "out");
  for (const auto& [name, content] : files) bytes += content.size();
  EXPECT_EQ(report.files, files.size());
  EXPECT_EQ(report.bytes, bytes);
  EXPECT_LT(bytes, 6'500'000U);
}

TEST_F(SampleTest, TinyHasTheCasesThatConversionsGetWrong) {
  Write(root_ / "out");
  const Catalog catalog = Open(root_ / "out");
  EXPECT_THAT(catalog.files(), SizeIs(4));
  int split = 0, ragged_rows = 0, ragged_cols = 0;
  for (const CatalogTensor& tensor : catalog.tensors()) {
    if (tensor.dtype != Dtype::kF8E4M3) continue;
    const auto scale = catalog.Find(tensor.name + "_scale_inv");
    ASSERT_NE(scale, Catalog::kNone) << tensor.name;
    EXPECT_EQ(catalog.tensors()[scale].dtype, Dtype::kF32);
    if (catalog.tensors()[scale].extent.file != tensor.extent.file) ++split;
    if (tensor.shape[0] % 128 != 0) ++ragged_rows;
    if (tensor.shape[1] % 128 != 0) ++ragged_cols;
  }
  EXPECT_GE(split, 2) << "scales in another shard than their weight";
  EXPECT_GT(ragged_rows, 0);
  EXPECT_GT(ragged_cols, 0);
  const auto kv_a = catalog.Find("model.layers.0.self_attn.kv_a_proj_with_mqa.weight");
  EXPECT_EQ(catalog.tensors()[kv_a].shape[0], 576U);
}

TEST_F(SampleTest, RouterBiasesAreNegativeF32) {
  Write(root_ / "out");
  const Catalog catalog = Open(root_ / "out");
  const std::string name = "model.layers.1.mlp.gate.e_score_correction_bias";
  EXPECT_EQ(catalog.tensors()[catalog.Find(name)].dtype, Dtype::kF32);
  EXPECT_THAT(ReadTensor<float>(catalog, name), Each(Lt(0.0F)));
}

TEST_F(SampleTest, MtpEmbeddingAndHeadAreCopies) {
  Write(root_ / "out");
  const Catalog catalog = Open(root_ / "out");
  EXPECT_EQ(ReadTensor<std::uint16_t>(catalog, "model.embed_tokens.weight"),
            ReadTensor<std::uint16_t>(catalog, "model.layers.4.embed_tokens.weight"));
  EXPECT_EQ(ReadTensor<std::uint16_t>(catalog, "lm_head.weight"),
            ReadTensor<std::uint16_t>(catalog, "model.layers.4.shared_head.head.weight"));
}

TEST_F(SampleTest, DequantisedWeightsAreTheDrawnOnes) {
  Write(root_ / "out", SamplePreset::kTiny, 7);
  const Catalog catalog = Open(root_ / "out");
  const std::string name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight";
  const auto codes = ReadTensor<std::uint8_t>(catalog, name);
  const auto scales = ReadTensor<float>(catalog, name + "_scale_inv");
  std::vector<std::uint16_t> drawn(codes.size());
  SampleValues(7, name, TensorRole::kAttentionLinear).DrawBF16(0, drawn);
  const std::uint64_t cols = catalog.tensors()[catalog.Find(name)].shape[1];
  float largest = 0;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const float scale = scales[i / cols / 128 * ((cols + 127) / 128) + i % cols / 128];
    const float drawn_value = quant::DecodeBF16(drawn[i]);
    const float kept = quant::DecodeE4M3(codes[i]) * scale;
    // Half a step of 3 mantissa bits, or half a subnormal step.
    ASSERT_NEAR(kept, drawn_value, std::abs(drawn_value) / 15 + scale * 0x1p-10F) << i;
    largest = std::max(largest, std::abs(quant::DecodeE4M3(codes[i])));
  }
  EXPECT_EQ(largest, quant::kE4M3Max);
}

TEST_F(SampleTest, TinyV32HasIndexersAndPowersOfTwo) {
  Write(root_ / "out", SamplePreset::kTinyV32);
  const Catalog catalog = Open(root_ / "out");
  const ModelConfig config =
      ParseModelConfig(ReadFile(root_ / "out" / "config.json"), "config.json");
  EXPECT_THAT(CheckAgainstModel(config, catalog), IsEmpty());
  EXPECT_EQ(config.model_type, "deepseek_v32");
  EXPECT_EQ(config.quantization.value().scale_fmt, "ue8m0");
  EXPECT_NE(catalog.Find("model.layers.4.self_attn.indexer.wq_b.weight_scale_inv"), Catalog::kNone);
  std::size_t scales = 0;
  for (const CatalogTensor& tensor : catalog.tensors()) {
    if (!tensor.name.ends_with("_scale_inv")) continue;
    EXPECT_EQ(tensor.dtype, Dtype::kF32);
    for (const float scale : ReadTensor<float>(catalog, tensor.name)) {
      int exponent = 0;
      EXPECT_EQ(std::frexp(scale, &exponent), 0.5F) << tensor.name;
      ++scales;
    }
  }
  EXPECT_GT(scales, 100U);
}

TEST_F(SampleTest, TinyKimiHasNoMtpLayerAndUnpaddedShardNames) {
  Write(root_ / "out", SamplePreset::kTinyKimi);
  const Catalog catalog = Open(root_ / "out");
  const ModelConfig config =
      ParseModelConfig(ReadFile(root_ / "out" / "config.json"), "config.json");
  EXPECT_THAT(CheckAgainstModel(config, catalog), IsEmpty());
  EXPECT_EQ(config.model_type, "kimi_k2");
  EXPECT_EQ(config.num_nextn_predict_layers, 0U);
  EXPECT_EQ(catalog.Find("model.layers.4.input_layernorm.weight"), Catalog::kNone);
  ASSERT_THAT(catalog.files(), SizeIs(4));
  EXPECT_EQ(catalog.files()[3].name, "model-4-of-4.safetensors");
}

// Checks that what `ways` ranks divide ends between blocks.
void ExpectWholeBlocks(std::uint64_t size, std::uint64_t ways, std::string_view what) {
  EXPECT_EQ(size % (ways * kSampleBlock.rows), 0U) << what << " in " << ways << " parts";
}

void ExpectCutInBlocks(const ModelConfig& config, std::uint64_t tp) {
  const std::uint64_t heads = config.num_attention_heads;
  ExpectWholeBlocks(heads * (config.qk_nope_head_dim + config.qk_rope_head_dim), tp, "q_b_proj");
  ExpectWholeBlocks(heads * (config.qk_nope_head_dim + config.v_head_dim), tp, "kv_b_proj");
  ExpectWholeBlocks(heads * config.v_head_dim, tp, "o_proj");
  ExpectWholeBlocks(config.intermediate_size, tp, "mlp");
  ExpectWholeBlocks(config.n_shared_experts * config.moe_intermediate_size, tp, "shared experts");
}

std::size_t NumScalesElsewhere(const Catalog& catalog) {
  std::size_t elsewhere = 0;
  for (const CatalogTensor& tensor : catalog.tensors()) {
    const auto scale = catalog.Find(tensor.name + "_scale_inv");
    if (scale == Catalog::kNone) continue;
    if (catalog.tensors()[scale].extent.file != tensor.extent.file) ++elsewhere;
  }
  return elsewhere;
}

TEST_F(SampleTest, TinyTpCanBeDividedByEightWithPadding) {
  const SampleReport report = Write(root_ / "out", SamplePreset::kTinyTp);
  const Catalog catalog = Open(root_ / "out");
  const ModelConfig config =
      ParseModelConfig(ReadFile(root_ / "out" / "config.json"), "config.json");
  EXPECT_THAT(CheckAgainstModel(config, catalog), IsEmpty());
  ExpectCutInBlocks(config, 8);
  ExpectWholeBlocks(config.moe_intermediate_size, 2, "routed experts");
  EXPECT_NE(config.vocab_size % 64, 0U);
  EXPECT_EQ(config.n_routed_experts, 32U);
  EXPECT_EQ(config.num_nextn_predict_layers, 1U);
  EXPECT_THAT(catalog.files(), SizeIs(5));
  EXPECT_GE(NumScalesElsewhere(catalog), 2U);
  EXPECT_LT(report.bytes, 40'000'000U);
}

TEST(SampleModel, Tiny61HasTheLayersOfV3AndCanBeDividedByEight) {
  const ModelConfig config = ParseModelConfig(SampleConfig(SamplePreset::kTiny61), "config.json");
  EXPECT_EQ(config.num_hidden_layers, 61U);
  EXPECT_EQ(config.num_nextn_predict_layers, 1U);
  ExpectCutInBlocks(config, 8);
  EXPECT_EQ(config.n_routed_experts % 8, 0U);
  EXPECT_EQ(config.vocab_size % 64, 0U);
  const SampleModel model = MakeSampleModel(SamplePreset::kTiny61);
  EXPECT_THAT(model.shards, SizeIs(6));
  EXPECT_TRUE(std::any_of(model.tensors.begin(), model.tensors.end(), [](const auto& tensor) {
    return tensor.name == "model.layers.61.shared_head.head.weight";
  }));
  EXPECT_TRUE(std::any_of(model.tensors.begin(), model.tensors.end(), [](const auto& tensor) {
    return tensor.parts.size() == 2 && tensor.parts[1].shard != tensor.parts[0].shard;
  }));
  std::uint64_t bytes = 0;
  for (const auto& shard : model.shards) bytes += shard.bytes;
  EXPECT_LT(bytes, 50'000'000U);
}

TEST_F(SampleTest, BytesDependOnSeedAlone) {
  Write(root_ / "a", SamplePreset::kTiny, 1);
  Write(root_ / "b", SamplePreset::kTiny, 1);
  Write(root_ / "c", SamplePreset::kTiny, 2);
  const auto a = ReadDirectory(root_ / "a");
  EXPECT_TRUE(a == ReadDirectory(root_ / "b"));
  const auto c = ReadDirectory(root_ / "c");
  EXPECT_NE(a.at("model-00001-of-00004.safetensors"), c.at("model-00001-of-00004.safetensors"));
  EXPECT_EQ(a.at("model.safetensors.index.json"), c.at("model.safetensors.index.json"));
}

TEST_F(SampleTest, LeavesNoPartialFiles) {
  Write(root_ / "out");
  for (const auto& [name, content] : ReadDirectory(root_ / "out")) {
    EXPECT_THAT(name, ::testing::Not(HasSubstr("partial")));
  }
}

TEST_F(SampleTest, AcceptsAnEmptyDirectoryAndNoOther) {
  std::filesystem::create_directory(root_ / "out");
  EXPECT_NO_THROW(Write(root_ / "out"));
  const auto error = [&](const std::filesystem::path& out) -> std::string {
    try {
      Write(out);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return e.message();
    }
    return "no error";
  };
  EXPECT_THAT(error(root_ / "out"), HasSubstr("is not empty"));
  EXPECT_THAT(error(root_ / "out" / "config.json"), HasSubstr("is not a directory"));
  EXPECT_THAT(error(root_ / "out" / "config.json" / "out"),
              HasSubstr("config.json is not a directory"));
}

TEST_F(SampleTest, V3ShapesHaveV3sFilesTensorsAndBytes) {
  const SampleReport report = Write(root_ / "out", SamplePreset::kV3Shapes);
  EXPECT_EQ(report.tensors, 91'991U);
  EXPECT_EQ(report.files, 163U + 5U);
  const Catalog catalog = Open(root_ / "out");
  EXPECT_EQ(catalog.tensors().size(), 91'991U);
  std::uint64_t bytes = 0, elements = 0;
  for (const CatalogTensor& tensor : catalog.tensors()) {
    bytes += tensor.extent.length;
    elements += formats::NumElements(tensor.shape).value();
  }
  EXPECT_EQ(bytes, 688'574'839'360U);
  EXPECT_EQ(elements, 684'531'386'000U);
  const auto file_of = [&](const std::string& name) {
    return catalog.files()[catalog.tensors().at(catalog.Find(name)).extent.file].name;
  };
  EXPECT_EQ(file_of("model.embed_tokens.weight"), "model-00001-of-000163.safetensors");
  EXPECT_EQ(file_of("lm_head.weight"), "model-00160-of-000163.safetensors");
  EXPECT_EQ(file_of("model.norm.weight"), "model-00160-of-000163.safetensors");
  for (const char* name : {"enorm", "hnorm", "eh_proj", "embed_tokens", "shared_head.head"}) {
    EXPECT_EQ(file_of("model.layers.61." + std::string(name) + ".weight"),
              "model-00163-of-000163.safetensors");
  }
}

TEST(SampleConfig, StatesTheDimensionsOfV3) {
  const ModelConfig config = ParseModelConfig(SampleConfig(SamplePreset::kV3Shapes), "config.json");
  EXPECT_THAT(ExpectedTensors(config), SizeIs(46'183));
}

TEST(SampleModel, SmallTakesAboutOneGigabyteInEightShards) {
  const SampleModel model = MakeSampleModel(SamplePreset::kSmall);
  EXPECT_THAT(model.shards, SizeIs(8));
  std::uint64_t bytes = 0;
  for (const auto& shard : model.shards) bytes += shard.bytes;
  EXPECT_GT(bytes, 900'000'000U);
  EXPECT_LT(bytes, 1'200'000'000U);
}

TEST(SampleValues, AnyPartIsThatPartOfTheWhole) {
  const SampleValues values(3, "x", TensorRole::kMlpLinear);
  std::vector<std::uint16_t> whole(1000), part(100);
  values.DrawBF16(0, whole);
  values.DrawBF16(450, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 450));
}

TEST(SampleValues, KeepsItsBitsForEver) {
  // Whoever changes these changes every published digest of a sample.
  std::vector<std::uint16_t> weights(4096), norms(4096);
  SampleValues(0, "model.layers.0.self_attn.o_proj.weight", TensorRole::kAttentionLinear)
      .DrawBF16(0, weights);
  SampleValues(0, "model.norm.weight", TensorRole::kNorm).DrawBF16(0, norms);
  std::vector<float> biases(4096);
  SampleValues(0, "bias", TensorRole::kRouterBias).DrawF32(0, biases);
  EXPECT_EQ(formats::Xxh3Hex(std::as_bytes(std::span(weights))),
            "6783ad3f6c0fe6f7071076a8bd582c85");
  EXPECT_EQ(formats::Xxh3Hex(std::as_bytes(std::span(norms))), "a3043111a5ba033e009de87fa2c7cf51");
  EXPECT_EQ(formats::Xxh3Hex(std::as_bytes(std::span(biases))), "0b196049eb5305c56b0a03787c61b4bb");
}

TEST(SampleValues, SpreadsLikeTrainedWeights) {
  std::vector<std::uint16_t> weights(1 << 18);
  SampleValues(0, "w", TensorRole::kExpertLinear).DrawBF16(0, weights);
  double sum = 0, squares = 0, largest = 0;
  for (const std::uint16_t bits : weights) {
    const double x = quant::DecodeBF16(bits);
    sum += x;
    squares += x * x;
    largest = std::max(largest, std::abs(x));
  }
  const double num = static_cast<double>(weights.size());
  const double sigma = std::sqrt(squares / num);
  EXPECT_NEAR(sum / num, 0, 5 * sigma / std::sqrt(num));
  EXPECT_GT(sigma, 0.012);
  EXPECT_LT(sigma, 0.028);
  EXPECT_GT(largest, 4.5 * sigma) << "tails are heavier than those of a normal distribution";
}

}  // namespace
}  // namespace dsv3::convert
