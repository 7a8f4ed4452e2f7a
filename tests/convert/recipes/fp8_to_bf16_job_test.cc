#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/job/runner.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "formats/hash/xxh3.h"
#include "formats/io/file_system.h"
#include "formats/json/json_edit.h"
#include "formats/manifest.h"
#include "tests/convert/recipes/expected_bf16.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// The files that fp8-to-bf16 makes of the files that it is given.
namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::kTinyShard1;
using testing::kTinyShard2;
using testing::kTinyShard3;
using testing::kTinyShard4;
using testing::ReadFile;
using testing::ReadTree;
using testing::Sha256Of;
using testing::TinyCheckpoint;
using testing::TinyTensor;
using testing::WriteFile;
using Json = nlohmann::json;
using Tree = std::map<std::string, std::string>;

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kManifest = "checkpoint.manifest.json";

class JobTest : public ::testing::Test {
 protected:
  JobTest() {
    request_.input = in();
    request_.output = out();
  }

  fs::path in() const { return dir_ / "in"; }
  fs::path out() const { return dir_ / "out"; }

  ConversionReport Convert() {
    ProgressSink progress;
    const StopToken stop;
    return RunConversion(Fp8ToBf16Conversion(), request_, formats::PosixFileSystem(), progress,
                         stop);
  }
  // Writes the checkpoint and converts it; the output's files.
  Tree Output() {
    checkpoint_.Write(in());
    report_ = Convert();
    return ReadTree(out());
  }
  TinyCheckpoint Expected() const { return testing::ExpectedBf16(checkpoint_, 4, 8); }
  // All tensors in one shard.
  void Merge(const std::string& shard) {
    for (TinyTensor& tensor : checkpoint_.tensors) tensor.shard = shard;
    checkpoint_.has_index = false;
  }
  std::vector<std::string> Warnings() const {
    std::vector<std::string> messages;
    for (const formats::Finding& warning : report_.warnings) messages.push_back(warning.message);
    return messages;
  }

  testing::TempDir dir_;
  TinyCheckpoint checkpoint_ = testing::SmallFp8Checkpoint();
  JobRequest request_;
  ConversionReport report_;
};

TEST_F(JobTest, MakesEveryFileAndNoOther) {
  const Tree tree = Output();
  const TinyCheckpoint expected = Expected();
  std::set<std::string> names;
  for (const auto& [name, content] : tree) names.insert(name);
  EXPECT_THAT(names, ElementsAre("README.md", kManifest, "code/", "code/modeling_tiny.py",
                                 "config.json", "empty.txt", kTinyShard1, kTinyShard2, kTinyShard3,
                                 kIndex, "tokenizer.json"));
  // Copied tensors, casts with scales from other shards, order, padding and {"format":"pt"}.
  for (const char* shard : {kTinyShard1, kTinyShard2, kTinyShard3}) {
    EXPECT_EQ(tree.at(shard), expected.ShardBytes(shard)) << shard;
  }
  // Neither scales nor the shard that held nothing else; the size of what is there.
  EXPECT_EQ(tree.at(kIndex), expected.IndexText());
  for (const auto& [name, content] : checkpoint_.side_files) EXPECT_EQ(tree.at(name), content);

  EXPECT_EQ(report_.tensors, expected.tensors.size());
  EXPECT_EQ(report_.converted_tensors, 5u);
  EXPECT_EQ(report_.copied_tensors, expected.tensors.size() - 5);
  EXPECT_EQ(report_.side_files, 5u);
}

TEST_F(JobTest, WritesTheConfigWithoutItsQuantization) {
  EXPECT_EQ(Output().at("config.json"), R"({
  "architectures": ["TinyForTests"],
  "model_type": "tiny_for_tests",
  "torch_dtype": "bfloat16",
  "vocab_size": 16
}
)");
}

TEST_F(JobTest, KeepsNumbersThatPythonWrites) {
  checkpoint_.config = R"({
  "model_type": "tiny_for_tests",
  "limits": [0.0, Infinity],
  "quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 8], "clip": NaN},
  "dtype": "bfloat16",
  "floor": -Infinity
}
)";
  const Tree tree = Output();
  EXPECT_EQ(tree.at("config.json"), R"({
  "model_type": "tiny_for_tests",
  "limits": [0.0, Infinity],
  "dtype": "bfloat16",
  "floor": -Infinity
}
)");
  const formats::Manifest manifest = formats::ParseManifest(tree.at(kManifest), "m.json");
  ASSERT_EQ(manifest.job.removed_config.size(), 1U);
  EXPECT_THAT(manifest.job.removed_config[0].second, ::testing::HasSubstr("\"clip\": NaN"));
}

TEST_F(JobTest, RecomputesAWrongTotalSize) {
  checkpoint_.index_text =
      formats::ReplaceJsonMember(checkpoint_.IndexText(), "metadata/total_size", "7", kIndex);
  const Tree tree = Output();
  EXPECT_EQ(tree.at(kIndex), Expected().IndexText());
  EXPECT_THAT(Warnings(), Contains(HasSubstr("says 7 bytes")));
}

TEST_F(JobTest, WritesFormatPtWhateverTheSourceSays) {
  const std::string good = checkpoint_.ShardBytes(kTinyShard1);
  const std::string metadata = R"({"format":"pt"})";
  for (const std::string other : {R"({"by":"you"}   )", "null           "}) {
    std::string shard = good;
    const std::size_t at = shard.find(metadata);
    ASSERT_NE(at, std::string::npos);
    checkpoint_.Write(in());
    WriteFile(in() / kTinyShard1, shard.replace(at, metadata.size(), other));
    Convert();
    EXPECT_EQ(ReadFile(out() / kTinyShard1), Expected().ShardBytes(kTinyShard1));
    fs::remove_all(out());
  }
}

TEST_F(JobTest, LeavesUnlistedShardsAloneAndNamesThem) {
  checkpoint_.side_files["consolidated.safetensors"] = checkpoint_.ShardBytes(kTinyShard3);
  checkpoint_.side_files["original/weights.safetensors"] = "anything";
  const Tree tree = Output();
  EXPECT_EQ(tree.count("consolidated.safetensors"), 0u);
  EXPECT_EQ(tree.count("original/weights.safetensors"), 0u);
  EXPECT_THAT(Warnings(), Contains(AllOf(HasSubstr("consolidated.safetensors: "),
                                         HasSubstr("the index does not list this file"))));
  EXPECT_THAT(Warnings(), Contains(HasSubstr("original/weights.safetensors: ")));
}

TEST_F(JobTest, CopiesNothingThatDescribesTheSourcesFilesOnly) {
  const Tree plain = Output();
  fs::remove_all(out());
  for (const char* name :
       {"SHA256SUMS", "model.sig", ".gitattributes", ".git/config", ".cache/huggingface/x.lock",
        "code/.git", "old.partial", ".dsv3-journal", "code/SHA256SUMS"}) {
    WriteFile(in() / name, "stale");
  }
  WriteFile(in() / kManifest, "{}");
  Convert();
  EXPECT_EQ(ReadTree(out()), plain);
}

TEST_F(JobTest, LeavesBehindWhatIsNoPartOfTheModelAndSaysSo) {
  const Tree plain = Output();
  fs::remove_all(out());
  const std::vector<std::string> names = {".DS_Store",
                                          "._config.json",
                                          "hf_quant_config.json",
                                          "model.fp8.safetensors.index.json",
                                          "optimizer.pt",
                                          "original/consolidated.00.pth",
                                          "pytorch_model.bin"};
  for (const std::string& name : names) WriteFile(in() / name, "12345");
  report_ = Convert();
  EXPECT_EQ(ReadTree(out()), plain);
  std::vector<std::string> left_behind;
  for (const formats::LeftBehind& each : report_.left_behind) {
    left_behind.push_back(each.name);
    EXPECT_EQ(each.bytes, 5U);
    EXPECT_EQ(each.kind == formats::LeftBehindKind::kUntrueDescription,
              each.name == "hf_quant_config.json");
  }
  EXPECT_EQ(left_behind, names);
}

TEST_F(JobTest, TakesEverythingAlongWhereItIsAskedTo) {
  const std::size_t side_files = Output().size();
  fs::remove_all(out());
  for (const char* name : {".DS_Store", "hf_quant_config.json", "a.pth"}) {
    WriteFile(in() / name, name);
  }
  request_.run.all_side_files = true;
  const Tree tree = Output();
  EXPECT_EQ(tree.size(), side_files + 3);
  EXPECT_EQ(tree.at("a.pth"), "a.pth");
  EXPECT_EQ(tree.at("hf_quant_config.json"), "hf_quant_config.json");
  EXPECT_TRUE(report_.left_behind.empty());
  EXPECT_EQ(Json::parse(tree.at(kManifest)).at("options").at("side_files"), "all");
}

TEST_F(JobTest, WritesAManifestThatChainsSourceAndOutput) {
  const Tree tree = Output();
  const Json manifest = Json::parse(tree.at(kManifest));
  EXPECT_EQ(manifest.at("recipe"), "fp8-to-bf16");
  EXPECT_EQ(manifest.at("options"),
            Json({{"allow_bad_scales", false}, {"checksum", "sha256"}, {"tensor_sha256", false}}));
  EXPECT_EQ(manifest.at("source").at("removed_config"),
            Json({{"quantization_config", Json::parse(checkpoint_.config)["quantization_config"]},
                  {"torch_dtype", "float8_e4m3fn"}}));

  std::set<std::string> source_files;
  for (const Json& file : manifest.at("source").at("files")) {
    const std::string name = file.at("name");
    source_files.insert(name);
    EXPECT_EQ(file.at("bytes"), checkpoint_.ShardBytes(name).size());
  }
  EXPECT_THAT(source_files, ElementsAre(kTinyShard1, kTinyShard2, kTinyShard3, kTinyShard4));

  // Every file but the manifest itself.
  std::set<std::string> files;
  for (const Json& file : manifest.at("files")) {
    const std::string name = file.at("name");
    files.insert(name);
    EXPECT_EQ(file.at("bytes"), tree.at(name).size());
    EXPECT_EQ(file.at("sha256"), Sha256Of(tree.at(name)));
  }
  for (const auto& [name, content] : tree) {
    if (!name.ends_with('/')) {
      EXPECT_EQ(files.count(name), name == kManifest ? 0u : 1u) << name;
    }
  }

  TinyCheckpoint expected = Expected();
  const auto expect_tensor = [](const Json& found, const TinyTensor& tensor) {
    EXPECT_EQ(found.at("name"), tensor.name);
    EXPECT_EQ(found.at("dtype"), formats::DtypeName(tensor.dtype));
    EXPECT_EQ(found.at("shape"), Json(tensor.shape));
    EXPECT_EQ(found.at("xxh3_128"), formats::Xxh3Hex(testing::AsBytes(tensor.bytes)));
    EXPECT_FALSE(found.contains("sha256"));
  };
  ASSERT_EQ(manifest.at("tensors").size(), expected.tensors.size());
  for (const Json& tensor : manifest.at("tensors")) {
    const std::string name = tensor.at("name");
    SCOPED_TRACE(name);
    const TinyTensor& output = expected.Find(name);
    const TinyTensor& source = checkpoint_.Find(name);
    const bool is_cast = source.dtype == formats::Dtype::kF8E4M3;
    expect_tensor(tensor, output);
    EXPECT_EQ(tensor.at("file"), output.shard);
    EXPECT_EQ(tensor.at("rule"), is_cast ? "dequantize" : "copy");
    ASSERT_EQ(tensor.at("sources").size(), is_cast ? 2u : 1u);
    expect_tensor(tensor.at("sources")[0], source);
    if (is_cast) {
      expect_tensor(tensor.at("sources")[1], checkpoint_.Find(name + "_scale_inv"));
    }
  }
}

TEST_F(JobTest, AddsCryptographicDigestsOfTensorsOnRequest) {
  request_.run.tensor_sha256 = true;
  const Json manifest = Json::parse(Output().at(kManifest));
  TinyCheckpoint expected = Expected();
  for (const Json& tensor : manifest.at("tensors")) {
    const std::string name = tensor.at("name");
    EXPECT_EQ(tensor.at("sha256"), Sha256Of(expected.Find(name).bytes)) << name;
    for (const Json& source : tensor.at("sources")) {
      const std::string source_name = source.at("name");
      EXPECT_EQ(source.at("sha256"), Sha256Of(checkpoint_.Find(source_name).bytes)) << source_name;
    }
  }
}

TEST_F(JobTest, WritesNoFileDigestsWithoutChecksum) {
  Tree with = Output();
  fs::remove_all(out());
  request_.run.checksum = ChecksumMode::kNone;
  Tree without = Output();
  const Json manifest = Json::parse(without.at(kManifest));
  EXPECT_EQ(manifest.at("options").at("checksum"), "none");
  for (const Json& file : manifest.at("files")) EXPECT_FALSE(file.contains("sha256"));
  EXPECT_TRUE(manifest.at("tensors")[0].contains("xxh3_128"));
  with.erase(kManifest);
  without.erase(kManifest);
  EXPECT_EQ(with, without);
}

TEST_F(JobTest, CountsNanCodesInTheManifestToo) {
  checkpoint_.Find("d.weight").bytes.assign(72, '\x7F');
  const Json manifest = Json::parse(Output().at(kManifest));
  for (const Json& tensor : manifest.at("tensors")) {
    if (tensor.at("name") == "d.weight") {
      EXPECT_EQ(tensor.at("nan_codes"), 72);
    }
    if (tensor.at("name") == "norm.weight") {
      EXPECT_FALSE(tensor.contains("nan_codes"));
    }
  }
}

TEST_F(JobTest, NeedsNoIndexForALoneModelFile) {
  Merge("model.safetensors");
  const Tree tree = Output();
  EXPECT_EQ(tree.at("model.safetensors"), Expected().ShardBytes("model.safetensors"));
  EXPECT_EQ(tree.count(kIndex), 0u);
}

TEST_F(JobTest, WritesAnIndexForALoneFileOfAnotherName) {
  Merge("weights.safetensors");
  const Tree tree = Output();
  EXPECT_EQ(tree.at("weights.safetensors"), Expected().ShardBytes("weights.safetensors"));
  EXPECT_EQ(tree.at(kIndex), Expected().IndexText());
}

TEST_F(JobTest, TakesAFileByItsPathWithWhatLiesBesideIt) {
  Merge("model.safetensors");
  checkpoint_.side_files["other.safetensors"] = "another checkpoint";
  request_.input = in() / "model.safetensors";
  const Tree tree = Output();
  EXPECT_EQ(tree.at("model.safetensors"), Expected().ShardBytes("model.safetensors"));
  EXPECT_EQ(tree.count("other.safetensors"), 0u);
  EXPECT_EQ(tree.at("tokenizer.json"), checkpoint_.side_files["tokenizer.json"]);
  EXPECT_EQ(tree.count("config.json"), 1u);
}

TEST_F(JobTest, ReadsADirectoryWithoutIndexAndSaysSo) {
  checkpoint_.has_index = false;
  const Tree tree = Output();
  for (const char* shard : {kTinyShard1, kTinyShard2, kTinyShard3}) {
    EXPECT_EQ(tree.at(shard), Expected().ShardBytes(shard));
  }
  EXPECT_EQ(tree.at(kIndex), Expected().IndexText());
  EXPECT_THAT(Warnings(), Contains(AllOf(HasSubstr("there is no " + std::string(kIndex)),
                                         HasSubstr("all 4 *.safetensors files"))));
}

TEST_F(JobTest, ReadsTheHubCache) {
  const Tree plain = Output();
  fs::remove_all(out());
  const fs::path cache = dir_ / "models--org--name";
  const fs::path snapshot = cache / "snapshots/0123abcd";
  fs::create_directories(cache / "blobs");
  WriteFile(cache / "refs/main", "0123abcd");
  fs::create_directories(snapshot / "code");
  int blob = 0;
  for (const auto& [name, content] : ReadTree(in())) {
    if (name.ends_with('/')) continue;
    const fs::path path = cache / "blobs" / std::to_string(++blob);
    WriteFile(path, content);
    fs::create_symlink(path, snapshot / name);
  }
  for (const fs::path& input : {cache, snapshot}) {
    request_.input = input;
    Convert();
    EXPECT_EQ(ReadTree(out()), plain);
    fs::remove_all(out());
  }
}

TEST_F(JobTest, GivesTheSameBytesForAnyThreadsAndMemory) {
  // Long enough for several tiles, in several files.
  for (const char* shard : {kTinyShard1, kTinyShard2, kTinyShard3}) {
    const std::string name = std::string("long.") + shard;
    checkpoint_.Add(shard, name, formats::Dtype::kF8E4M3, {1001, 1003});
    checkpoint_.AddScale(kTinyShard4, name + "_scale_inv", formats::Dtype::kF32, {251, 126});
    checkpoint_.Add(shard, name + ".copy", formats::Dtype::kF32, {300'001});
  }
  const Tree reference = Output();
  for (const char* shard : {kTinyShard1, kTinyShard2, kTinyShard3}) {
    EXPECT_TRUE(reference.at(shard) == Expected().ShardBytes(shard)) << shard;
  }
  for (const unsigned threads : {1U, 2U, 4U}) {
    for (const std::uint64_t mebibytes : {8U, 64U, 1024U}) {
      request_.run.threads = threads;
      request_.run.memory_bytes = mebibytes << 20;
      fs::remove_all(out());
      Convert();
      EXPECT_TRUE(ReadTree(out()) == reference) << threads << " threads, " << mebibytes << " MiB";
    }
  }
}

TEST_F(JobTest, HasNothingToDoForAFinishedOutput) {
  const Tree tree = Output();
  EXPECT_EQ(Convert().outcome, ConversionReport::Outcome::kNothingToDo);
  EXPECT_EQ(ReadTree(out()), tree);
}

TEST_F(JobTest, WarningsThatTheScalesGiveArePrintedAndReported) {
  TinyCheckpoint checkpoint = testing::SmallFp8Checkpoint();
  checkpoint.config.replace(checkpoint.config.find("\"quant_method\""), 0,
                            "\"scale_fmt\": \"ue8m0\", ");
  checkpoint.Write(in());
  testing::WarningSink warnings;
  const StopToken stop;
  const ConversionReport report =
      RunConversion(Fp8ToBf16Conversion(), request_, formats::PosixFileSystem(), warnings, stop);
  ASSERT_EQ(report.warnings.size(), 2U);
  EXPECT_EQ(report.warnings[1].kind, "scale-fmt-contradiction");
  EXPECT_THAT(warnings.warnings(),
              ElementsAre(report.warnings[0].message, report.warnings[1].message));
}

}  // namespace
}  // namespace dsv3::convert
