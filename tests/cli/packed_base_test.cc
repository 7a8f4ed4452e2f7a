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

#include "tests/cli/run_tool.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// A packed checkpoint that holds differences as the input of every command.
namespace dsv3::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class PackedBaseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Sample(base_, "tiny", "4");
    std::filesystem::copy(base_, in_);
    for (const auto& entry : std::filesystem::directory_iterator(in_)) {
      if (entry.path().extension() == ".safetensors") Change(entry.path());
    }
    Succeed({"dsv3-convert", "pack", in_, delta_, "--base", base_, "--quiet"});
  }

  // Clears the lowest bit of some bytes of its tensors, which makes no NaN.
  static void Change(const std::filesystem::path& shard) {
    std::string content = ReadFile(shard);
    std::uint64_t length = 0;
    std::memcpy(&length, content.data(), sizeof length);
    for (std::size_t i = sizeof length + length; i < content.size(); i += 97) {
      content[i] = static_cast<char>(content[i] & ~1);
    }
    WriteFile(shard, content);
  }

  static void Sample(const std::string& to, const std::string& preset, const std::string& seed) {
    Succeed({"dsv3-convert", "sample", to, "--preset", preset, "--seed", seed, "--quiet"});
  }

  static std::string Succeed(const std::vector<std::string>& words) {
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 0) << words[1] << ": " << result.err;
    return result.out;
  }

  std::string Path(const std::string& name) const { return (dir_ / name).string(); }

  // Runs a conversion of the original and of the differences: words, IN, OUT. Both outputs.
  std::pair<std::map<std::string, std::string>, std::map<std::string, std::string>> Both(
      const std::vector<std::string>& words) const {
    std::map<std::string, std::string> trees[2];
    for (const bool is_delta : {false, true}) {
      const std::string out = Path(is_delta ? "of-delta" : "of-original");
      std::filesystem::remove_all(out);
      std::vector<std::string> call = words;
      call.insert(call.end(), {is_delta ? delta_ : in_, out, "--quiet"});
      if (is_delta) call.insert(call.end(), {"--base", base_});
      Succeed(call);
      trees[is_delta ? 1 : 0] = ReadTree(out);
    }
    return {trees[0], trees[1]};
  }

  TempDir dir_;
  const std::string in_ = Path("in");
  const std::string base_ = Path("base");
  const std::string delta_ = Path("delta");
};

TEST_F(PackedBaseTest, ConversionsWriteTheSameBytes) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"dsv3-convert", "fp8-to-bf16"},
                                             {"dsv3-convert", "dequantize"},
                                             {"dsv3-convert", "train-to-infer", "--mtp", "drop"},
                                             {"dsv3-convert", "quantize", "--to", "int8"}}) {
    const auto [of_original, of_delta] = Both(words);
    EXPECT_EQ(of_delta, of_original) << words[1];
  }
}

// Its shards are new, so the manifest lists the files that were read.
TEST_F(PackedBaseTest, ALayoutHasTheSameBytesAndNamesThePackedFiles) {
  auto [of_original, of_delta] = Both({"dsv3-convert", "layout", "--to", "deepseek"});
  const json manifest = json::parse(of_delta.at("checkpoint.manifest.json"));
  EXPECT_EQ(manifest["source"]["files"][0]["name"], "model-00001-of-00004.safetensors.packed");
  of_original.erase("checkpoint.manifest.json");
  of_delta.erase("checkpoint.manifest.json");
  EXPECT_EQ(of_delta, of_original);
}

TEST_F(PackedBaseTest, RankShardsHaveTheSameBytes) {
  auto [of_original, of_delta] = Both({"dsv3-reshard", "--ep", "2"});
  // They name the files that were read, and the job.
  EXPECT_THAT(of_delta.at("checkpoint.manifest.json"), HasSubstr(".packed"));
  for (const std::string name : {"checkpoint.manifest.json", "layout.json"}) {
    EXPECT_EQ(of_original.erase(name), 1U);
    EXPECT_EQ(of_delta.erase(name), 1U);
  }
  EXPECT_EQ(of_delta, of_original);
}

TEST_F(PackedBaseTest, AnotherBaseIsAnotherJob) {
  const std::vector<std::string> call = {"dsv3-convert", "fp8-to-bf16", delta_, Path("bf16"),
                                         "--quiet",      "--base",      base_};
  Succeed(call);
  EXPECT_THAT(Succeed(call), "");
  std::vector<std::string> inside = call;
  inside[3] = base_ + "/out";
  EXPECT_EQ(RunTool(inside).exit_code, 2);
}

TEST_F(PackedBaseTest, CompareReadsEitherOrBoth) {
  for (const auto& [a, b] : std::vector<std::pair<std::string, std::string>>{
           {delta_, in_}, {in_, delta_}, {delta_, delta_}}) {
    const json report = json::parse(
        Succeed({"dsv3-verify", "compare", a, b, "--base", base_, "--json", "--quiet"}));
    EXPECT_EQ(report["counts"]["identical_bytes"], report["tensors"].size());
  }
}

TEST_F(PackedBaseTest, ChecksSayTheSame) {
  // The changed bits are not the same in tensors that should be copies of each other.
  for (const std::string check : {"numeric", "structure", "all"}) {
    const ToolResult of_delta =
        RunTool({"dsv3-verify", check, delta_, "--base", base_, "--json", "--quiet"});
    const ToolResult of_original = RunTool({"dsv3-verify", check, in_, "--json", "--quiet"});
    EXPECT_EQ(of_delta.exit_code, of_original.exit_code) << check << of_delta.err;
    if (check == "all") continue;
    const json delta = json::parse(of_delta.out);
    const json original = json::parse(of_original.out);
    for (const std::string member : {"tensors", "findings"}) {
      EXPECT_EQ(delta.at(member), original.at(member)) << check;
    }
  }
}

TEST_F(PackedBaseTest, ForwardGivesTheSameLogits) {
  const std::vector<std::string> run = {"dsv3-verify", "forward", "--tokens", "1,2,3"};
  std::vector<std::string> of_original = run;
  of_original.insert(of_original.end(), {in_, "--logits-out", Path("original.npy")});
  Succeed(of_original);
  std::vector<std::string> of_delta = run;
  of_delta.insert(of_delta.end(), {delta_, "--base", base_, "--logits-out", Path("delta.npy")});
  Succeed(of_delta);
  EXPECT_EQ(ReadFile(Path("delta.npy")), ReadFile(Path("original.npy")));
  std::vector<std::string> of_both = run;
  of_both.insert(of_both.end(), {in_, delta_, "--base", base_});
  EXPECT_THAT(Succeed(of_both), HasSubstr("NMSE 0"));
}

TEST_F(PackedBaseTest, InspectShowsTheSameTensor) {
  const std::string tensor = "model.layers.0.mlp.down_proj.weight";
  json of_delta =
      json::parse(Succeed({"dsv3-inspect", delta_, "--base", base_, "--tensor", tensor, "--json"}));
  json of_original = json::parse(Succeed({"dsv3-inspect", in_, "--tensor", tensor, "--json"}));
  EXPECT_EQ(of_delta["name"], tensor);
  of_delta.erase("input");
  of_original.erase("input");
  EXPECT_EQ(of_delta, of_original);
  const json whole = json::parse(Succeed({"dsv3-inspect", delta_, "--base", base_, "--json"}));
  std::uint64_t packed = 0;
  for (const json& dtype : whole["dtypes"]) packed += dtype["packed_bytes"].get<std::uint64_t>();
  std::uint64_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(delta_)) {
    if (entry.path().extension() == ".packed") files += entry.file_size();
  }
  EXPECT_LE(packed, files);
}

// Each command, without its base.
std::vector<std::vector<std::string>> Commands(const std::string& in, const std::string& out) {
  return {{"dsv3-convert", "fp8-to-bf16", in, out},
          {"dsv3-convert", "bf16-to-fp8", in, out},
          {"dsv3-convert", "dequantize", in, out},
          {"dsv3-convert", "quantize", "--to", "int8", in, out},
          {"dsv3-convert", "repack", "--to", "fp8", in, out},
          {"dsv3-convert", "train-to-infer", in, out},
          {"dsv3-convert", "layout", "--to", "deepseek", in, out},
          {"dsv3-convert", "to-gguf", "--type", "bf16", "--no-tokenizer", in, out + ".gguf"},
          {"dsv3-convert", "unpack", in, out},
          {"dsv3-reshard", "--ep", "2", in, out},
          {"dsv3-inspect", in},
          {"dsv3-verify", "structure", in},
          {"dsv3-verify", "numeric", in},
          {"dsv3-verify", "compare", in, in},
          {"dsv3-verify", "forward", in}};
}

TEST_F(PackedBaseTest, AMissingBaseIsAsked) {
  for (const std::vector<std::string>& words : Commands(delta_, Path("out"))) {
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 2) << words[1] << result.err;
    EXPECT_THAT(result.err, HasSubstr("--base DIR")) << words[1];
    EXPECT_FALSE(std::filesystem::exists(Path("out"))) << words[1];
  }
}

TEST_F(PackedBaseTest, ANeedlessBaseIsRefused) {
  for (std::vector<std::string> words : Commands(in_, Path("out"))) {
    // What these take is another form.
    if (words[1] == "unpack" || words[1] == "bf16-to-fp8" || words[1] == "repack") continue;
    words.insert(words.end(), {"--base", base_});
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 2) << words[1] << result.err;
    EXPECT_THAT(result.err, HasSubstr("--base")) << words[1];
    EXPECT_FALSE(std::filesystem::exists(Path("out"))) << words[1];
  }
}

TEST_F(PackedBaseTest, AnotherModelIsNamedByTensor) {
  Sample(Path("v32"), "tiny-v32", "4");
  Sample(Path("other"), "tiny", "5");
  // Of another shape at once, of other values when they are read.
  for (const std::string other : {"v32", "other"}) {
    const ToolResult result =
        RunTool({"dsv3-verify", "numeric", delta_, "--base", Path(other), "--json"});
    EXPECT_EQ(result.exit_code, 3) << result.err;
    EXPECT_NE(json::parse(result.out)["error"]["tensor"], nullptr) << result.out;
  }
}

TEST_F(PackedBaseTest, TheSecondCheckpointOfAConversionMayBeADelta) {
  Succeed({"dsv3-convert", "fp8-to-bf16", in_, Path("bf16"), "--quiet"});
  Succeed({"dsv3-convert", "bf16-to-fp8", Path("bf16"), Path("again"), "--scales-from", delta_,
           "--base", base_, "--quiet"});
  auto again = ReadTree(Path("again"));
  again.erase("checkpoint.manifest.json");
  auto original = ReadTree(in_);
  original.erase("checkpoint.manifest.json");
  EXPECT_EQ(again, original);
}

}  // namespace
}  // namespace dsv3::testing
