// What the manifest of `layout` and of a training checkpoint lists as its sources.

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "convert/recipes/layout.h"
#include "convert/verify/provenance.h"
#include "tests/convert/recipes/train_to_infer_test.h"
#include "tests/convert/support/digest_oracle.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;

class LayoutManifestTest : public TrainToInferTest {
 protected:
  static convert::ConversionReport Write(const fs::path& input, const fs::path& output,
                                         const std::string& to) {
    return Conversion(input, output, convert::LayoutConversion({.to = to})).Run();
  }

  // Of a safetensors file's length prefix and header.
  static std::string HeaderDigest(const std::string& file) {
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), sizeof(length));
    return Xxh3Of(std::string_view(file).substr(0, sizeof(length) + length));
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

// Each output's manifest lists the files that it was made of, whatever names the model would have.
TEST_F(LayoutManifestTest, TheManifestListsTheFilesThatAreThere) {
  const fs::path in = Bf16Sample();
  const auto expect_sources = [&](const fs::path& input, const fs::path& output) {
    std::map<std::string, std::uint64_t> expected;
    for (const std::string& name : WeightFiles(input)) {
      expected[name] = fs::file_size(input / name);
    }
    std::map<std::string, std::uint64_t> listed;
    const nlohmann::json manifest = Json(output / "checkpoint.manifest.json");
    for (const nlohmann::json& file : manifest["source"]["files"]) {
      const std::string name = file["name"];
      listed[name] = file["bytes"];
      EXPECT_EQ(file["header_xxh3_128"], HeaderDigest(ReadFile(input / name))) << name;
    }
    EXPECT_EQ(listed, expected) << output;
  };
  for (const char* const layout : {"mindformers-train", "deepseek", "transformers-fused"}) {
    const fs::path there = dir_ / layout;
    Write(in, there, layout);
    expect_sources(in, there);
    const fs::path back = dir_ / (std::string(layout) + "-back");
    Write(there, back, "hf");
    expect_sources(there, back);
    if (std::string_view(layout) != "mindformers-train") continue;
    Convert(there, dir_ / "inferred");
    expect_sources(there, dir_ / "inferred");
  }
  // Of a file that holds nothing of the model nothing was made.
  WriteFile(dir_ / "mindformers-train" / "optimizer.safetensors",
            ReadFile(in / *WeightFiles(in).begin()));
  Write(dir_ / "mindformers-train", dir_ / "again", "hf");
  fs::remove(dir_ / "mindformers-train" / "optimizer.safetensors");
  expect_sources(dir_ / "mindformers-train", dir_ / "again");
}

// A norm that the layout stores in F32 has the BF16 one as its source, whose digest is not that of
// the F32 values.
TEST_F(LayoutManifestTest, TheManifestListsTheTensorsThatAreThere) {
  const fs::path in = Bf16Sample();
  Write(in, dir_ / "train", "mindformers-train");
  const auto sources_of = [&](const fs::path& directory, const std::string& name) {
    const nlohmann::json manifest = Json(directory / "checkpoint.manifest.json");
    for (const nlohmann::json& tensor : manifest["tensors"]) {
      if (tensor["name"] == name) return nlohmann::json(tensor);
    }
    return nlohmann::json();
  };
  const auto model = ReadCheckpoint(in);
  const nlohmann::json norm = sources_of(dir_ / "train", "model.layers.0.attention_norm.weight");
  EXPECT_EQ(norm["dtype"], "F32");
  EXPECT_EQ(norm["rule"], "cast");
  ASSERT_EQ(norm["sources"].size(), 1U);
  EXPECT_EQ(norm["sources"][0]["name"], "model.layers.0.input_layernorm.weight");
  EXPECT_EQ(norm["sources"][0]["dtype"], "BF16");
  EXPECT_FALSE(norm["sources"][0].contains("xxh3_128"));
  const nlohmann::json head = sources_of(dir_ / "train", "lm_head.weight");
  EXPECT_EQ(head["rule"], "copy");
  EXPECT_EQ(head["sources"][0]["xxh3_128"], Xxh3Of(model.at("lm_head.weight").bytes));
  // And back: of the stack's own tensors.
  Write(dir_ / "train", dir_ / "back", "hf");
  const nlohmann::json up =
      sources_of(dir_ / "back", "model.layers.1.mlp.experts.3.up_proj.weight");
  EXPECT_EQ(up["rule"], "assemble");
  ASSERT_EQ(up["sources"].size(), 1U);
  EXPECT_EQ(up["sources"][0]["name"], "model.layers.1.feed_forward.routed_experts.ffn.w1");
  EXPECT_EQ(up["sources"][0]["file"], "ms-model-00002-of-00005.safetensors");
  convert::ProvenanceRequest request{dir_ / "back", dir_ / "train"};
  const convert::ProvenanceReport traced = convert::TraceProvenance(request);
  EXPECT_TRUE(traced.verification.findings.empty());
  EXPECT_GT(traced.matching, 0U);
}

}  // namespace
}  // namespace dsv3::testing
