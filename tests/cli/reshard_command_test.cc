#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/json_schema.h"
#include "tests/cli/run_tool.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// dsv3-reshard from the outside, on a sample checkpoint.
namespace dsv3::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class ReshardCommandTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    const ToolResult made =
        RunTool({"dsv3-convert", "sample", In(), "--preset", "tiny-tp", "--seed", "7", "--quiet"});
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }
  static void TearDownTestSuite() { delete shared_; }

  static std::string In() { return (*shared_ / "in").string(); }
  std::string At(const std::string& name) const { return (dir_ / name).string(); }

  static ToolResult Reshard(std::vector<std::string> words) {
    words.insert(words.begin(), "dsv3-reshard");
    return RunTool(words);
  }

  static json Report(std::vector<std::string> words, const std::string& schema) {
    words.push_back("--json");
    const ToolResult result = Reshard(words);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const json rules = json::parse(ReadFile(std::filesystem::path(DSV3_SOURCE_DIR) /
                                            "docs/schemas" / (schema + ".schema.json")));
    json report = json::parse(result.out);
    EXPECT_EQ(SchemaComplaints(rules, report), "");
    return report;
  }

  static TempDir* shared_;
  TempDir dir_;
};
TempDir* ReshardCommandTest::shared_ = nullptr;

TEST_F(ReshardCommandTest, CutsMergesAndSaysSo) {
  const ToolResult cut = Reshard({"--tp", "2", "--ep", "4", In(), At("ranks")});
  EXPECT_EQ(cut.exit_code, 0);
  EXPECT_EQ(cut.err, "dsv3-reshard: converting\n");
  EXPECT_THAT(cut.out, StartsWith("Cut into 4 ranks: " + At("ranks") +
                                  "\n"
                                  "  ranks       4 = TP 2 × DP 2\n"
                                  "  experts     32 over EP 4: 8 a rank and layer\n"));
  EXPECT_THAT(cut.out, HasSubstr("  layout      " + At("ranks") + "/layout.json\n"));
  EXPECT_THAT(cut.out, HasSubstr("\n     3   1   1   3 "));
  EXPECT_THAT(Reshard({"--tp", "2", "--ep", "4", In(), At("ranks")}).out,
              StartsWith("Nothing to do: " + At("ranks")));

  const ToolResult merged = Reshard({"merge", At("ranks"), At("merged")});
  EXPECT_EQ(merged.exit_code, 0);
  EXPECT_THAT(merged.out, StartsWith("Merged the ranks: " + At("merged") + "\n"));
  EXPECT_THAT(merged.out,
              HasSubstr("  original    every file is the original one, byte for byte\n"));
  auto tree = ReadTree(At("merged"));
  tree.erase("checkpoint.manifest.json");
  EXPECT_EQ(tree, ReadTree(In()));
}

TEST_F(ReshardCommandTest, MergesTheFilesOfTheDemo) {
  ASSERT_EQ(RunTool({"dsv3-convert", "fp8-to-bf16", In(), At("bf16"), "--quiet"}).exit_code, 0);
  ASSERT_EQ(Reshard({"--tp", "2", "--format", "deepseek", At("bf16"), At("demo")}).exit_code, 0);
  for (const char* name : {"layout.json", "checkpoint.manifest.json", "config.json"}) {
    std::filesystem::remove(At("demo") + "/" + name);
  }
  const std::vector<std::vector<std::string>> others = {
      {"dsv3-inspect", At("demo")},
      {"dsv3-verify", "structure", At("demo")},
      {"dsv3-verify", "numeric", At("demo")},
      {"dsv3-convert", "fp8-to-bf16", At("demo"), At("out")},
      {"dsv3-reshard", "--tp", "2", At("demo"), At("out")}};
  for (const std::vector<std::string>& words : others) {
    const ToolResult refused = RunTool(words);
    EXPECT_EQ(refused.exit_code, 3) << words[0];
    EXPECT_THAT(refused.err, HasSubstr("the files of DeepSeek's inference demo"));
  }
  const std::string one = At("demo") + "/model0-mp2.safetensors";
  const ToolResult file = RunTool({"dsv3-inspect", one});
  EXPECT_EQ(file.exit_code, 3);
  EXPECT_THAT(file.err, AllOf(HasSubstr("this is a file of DeepSeek's inference demo"),
                              HasSubstr("merge --config FILE " + At("demo"))));
  const ToolResult merged_file = Reshard({"merge", one, At("merged")});
  EXPECT_EQ(merged_file.exit_code, 3);
  EXPECT_THAT(merged_file.err, HasSubstr("it is a file, and a directory is merged"));
  const ToolResult without = Reshard({"merge", At("demo"), At("merged")});
  EXPECT_EQ(without.exit_code, 2);
  EXPECT_THAT(without.err, HasSubstr("add --config FILE"));
  WriteFile(At("demo.json"), R"({"vocab_size": 129280, "dim": 7168, "n_layers": 61})");
  const ToolResult wrong =
      Reshard({"merge", At("demo"), At("merged"), "--config", At("demo.json")});
  EXPECT_EQ(wrong.exit_code, 3);
  EXPECT_THAT(wrong.err, HasSubstr("this is a config of DeepSeek's inference demo"));

  // The config of the FP8 model: the ranks are BF16 and without MTP layers.
  const json report = Report({"merge", At("demo"), At("merged"), "--config", In() + "/config.json"},
                             "merge-report");
  EXPECT_EQ(report["differences"].size(), 3U);
  const json config = json::parse(ReadFile(At("merged") + "/config.json"));
  EXPECT_EQ(config["num_nextn_predict_layers"], 0);
  EXPECT_EQ(config.count("quantization_config"), 0U);
  EXPECT_EQ(RunTool({"dsv3-verify", "structure", "--strict", At("merged")}).exit_code, 0);
  const json compared =
      json::parse(RunTool({"dsv3-verify", "compare", At("bf16"), At("merged"), "--json"}).out);
  for (const json& finding : compared["findings"]) {
    EXPECT_EQ(finding["kind"], "only-in-a") << finding;
    EXPECT_THAT(finding["tensor"].get<std::string>(), StartsWith("model.layers.4."));
  }

  // Other commands read the files as they are.
  const std::vector<std::string> given = {"--config", In() + "/config.json", "--json"};
  const auto run = [&](std::vector<std::string> words) {
    words.insert(words.end(), given.begin(), given.end());
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 0) << words[1] << result.err;
    return json::parse(result.out);
  };
  EXPECT_EQ(run({"dsv3-verify", "structure", At("demo")})["training"]["stack"], "deepseek");
  const json numbers = run({"dsv3-verify", "numeric", At("demo")});
  const json of_merged =
      json::parse(RunTool({"dsv3-verify", "numeric", At("merged"), "--json"}).out);
  EXPECT_EQ(numbers["tensors"], of_merged["tensors"]);
  EXPECT_EQ(run({"dsv3-verify", "compare", At("demo"), At("merged")})["findings"], json::array());
  EXPECT_EQ(run({"dsv3-inspect", At("demo")})["parameters"],
            json::parse(RunTool({"dsv3-inspect", At("merged"), "--json"}).out)["parameters"]);
  std::filesystem::copy(In() + "/config.json", At("demo") + "/config.json");
  EXPECT_EQ(Reshard({"--tp", "2", At("demo"), At("ranks")}).exit_code, 0);
  EXPECT_EQ(Reshard({"--tp", "2", At("merged"), At("ranks-of-merged")}).exit_code, 0);
  const std::string rank = "/model-rank-1-part-0.safetensors";
  EXPECT_EQ(ReadFile(At("ranks") + rank), ReadFile(At("ranks-of-merged") + rank));

  // A copy that differs, before anything is written; then a rank that is missing.
  std::string damaged = ReadFile(At("demo") + "/model1-mp2.safetensors");
  const std::size_t norm = damaged.find("\"norm.weight\"");
  const std::size_t offset = std::stoull(damaged.substr(damaged.find("offsets\":[", norm) + 10));
  std::uint64_t header = 0;
  damaged.copy(reinterpret_cast<char*>(&header), sizeof(header));
  damaged[8 + header + offset] ^= 1;
  WriteFile(At("demo") + "/model1-mp2.safetensors", damaged);
  const std::vector<std::string> merge = {"merge", At("demo"), At("again"), "--config",
                                          In() + "/config.json"};
  EXPECT_THAT(Reshard(merge).err, HasSubstr("tensor 'norm.weight': every rank holds a copy"));
  EXPECT_FALSE(std::filesystem::exists(At("again")));
  std::filesystem::remove(At("demo") + "/model1-mp2.safetensors");
  EXPECT_THAT(Reshard(merge).err, HasSubstr("model1-mp2.safetensors: the other files are of 2 "));
}

TEST_F(ReshardCommandTest, NamesWhatIsLeftBehindInBothDirections) {
  std::filesystem::copy(In(), At("in"), std::filesystem::copy_options::recursive);
  WriteFile(At("in") + "/model.gguf", "GGUF");
  const ToolResult dry = Reshard({"--tp", "2", "--dry-run", At("in"), At("ranks")});
  EXPECT_THAT(dry.out,
              HasSubstr("  left behind 1 file, 4 bytes; --side-files all copies it as well\n"
                        "    weights in other formats, 4 bytes: model.gguf\n"));
  const json all =
      Report({"--tp", "2", "--side-files", "all", At("in"), At("ranks")}, "reshard-report");
  EXPECT_TRUE(all["left_behind"].empty());
  EXPECT_EQ(ReadFile(At("ranks") + "/model.gguf"), "GGUF");
  const json merged = Report({"merge", At("ranks"), At("merged")}, "merge-report");
  EXPECT_EQ(merged["left_behind"],
            json({{{"name", "model.gguf"}, {"kind", "other-weights"}, {"bytes", 4}}}));
  EXPECT_FALSE(std::filesystem::exists(At("merged") + "/model.gguf"));
}

TEST_F(ReshardCommandTest, ReportsConformToTheirSchemas) {
  const json planned = Report(
      {"--preset", "deepseek-prefill", "--redundant-experts", "0", "--dry-run", In(), At("ranks")},
      "reshard-report");
  EXPECT_EQ(planned["outcome"], "planned");
  EXPECT_EQ(planned["topology"]["world_size"], 32);
  EXPECT_EQ(planned["topology"]["dense_tp"], 1);
  EXPECT_EQ(planned["topology"]["redundant_experts"], 0) << "what is given wins over the preset";
  EXPECT_FALSE(std::filesystem::exists(At("ranks")));

  const json cut =
      Report({"--tp", "2", "--redundant-experts", "2", "--mtp", "drop", In(), At("ranks")},
             "reshard-report");
  EXPECT_EQ(cut["outcome"], "converted");
  EXPECT_EQ(cut["ranks"].size(), 2u);
  std::uint64_t bytes = 0;
  for (const auto& [kind, of_kind] : cut["ranks"][0]["bytes_by_kind"].items()) {
    bytes += of_kind.get<std::uint64_t>();
  }
  EXPECT_EQ(cut["ranks"][0]["bytes"], bytes);
  EXPECT_FALSE(cut["dropped"].empty());

  const json merged = Report({"merge", At("ranks"), At("merged")}, "merge-report");
  EXPECT_EQ(merged["original"], false);
  EXPECT_FALSE(merged["differences"].empty());
}

TEST_F(ReshardCommandTest, SizesBesideAPresetWin) {
  const json report = Report({"--preset", "deepseek-prefill", "--tp", "2", "--ep", "4",
                              "--dense-tp", "2", "--dry-run", In(), At("ranks")},
                             "reshard-report");
  EXPECT_EQ(report["topology"]["world_size"], 4) << "the preset's data parallel size gives way";
  EXPECT_EQ(report["topology"]["dense_tp"], 2);
  EXPECT_EQ(report["topology"]["shared_expert_tp"], 1);
  EXPECT_EQ(report["topology"]["redundant_experts"], 32);
}

TEST_F(ReshardCommandTest, DrawsTheBalanceInADryRun) {
  const ToolResult plan = Reshard({"--tp", "4", "--ep", "8", "--dry-run", "--balance-svg",
                                   At("balance.svg"), In(), At("ranks")});
  EXPECT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_THAT(plan.out, StartsWith("Plan for " + At("ranks") + " (nothing was written)\n\n  file"));
  EXPECT_FALSE(std::filesystem::exists(At("ranks")));
  EXPECT_THAT(ReadFile(dir_ / "balance.svg"), HasSubstr("Balance of 8 ranks"));
}

TEST_F(ReshardCommandTest, RanksAreMadeOneByOne) {
  const json first = Report({"--tp", "2", "--ranks", "1", In(), At("ranks")}, "reshard-report");
  EXPECT_EQ(first["outcome"], "part-done");
  EXPECT_EQ(first["missing_files"], 1);
  EXPECT_FALSE(std::filesystem::exists(At("ranks") + "/layout.json"));
  EXPECT_THAT(Reshard({"--tp", "2", "--ranks", "0", In(), At("ranks")}).out,
              HasSubstr("Cut into 2 ranks: "));
  EXPECT_TRUE(std::filesystem::exists(At("ranks") + "/layout.json"));
}

TEST_F(ReshardCommandTest, PartsAreFinishedByTheSameCommand) {
  const ToolResult first = Reshard({"--tp", "2", "--part", "0/2", In(), At("ranks")});
  EXPECT_EQ(first.exit_code, 0) << first.err;
  EXPECT_THAT(first.out, HasSubstr("then the same command with --finish"));
  EXPECT_EQ(Reshard({"--tp", "2", "--finish", In(), At("ranks")}).exit_code, 2);
  EXPECT_FALSE(std::filesystem::exists(At("ranks") + "/layout.json"));
  EXPECT_EQ(Reshard({"--tp", "2", "--part", "1/2", In(), At("ranks")}).exit_code, 0);
  EXPECT_EQ(Reshard({"--tp", "2", "--finish", In(), At("ranks")}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists(At("ranks") + "/layout.json"));
}

TEST_F(ReshardCommandTest, DamagedRankLeavesNothingVisible) {
  ASSERT_EQ(Reshard({"--tp", "2", In(), At("ranks"), "--quiet"}).exit_code, 0);
  const std::filesystem::path rank = dir_ / "ranks/model-rank-1-part-0.safetensors";
  std::string bytes = ReadFile(rank);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  WriteFile(rank, bytes);
  const ToolResult merged = Reshard({"merge", At("ranks"), At("merged")});
  EXPECT_EQ(merged.exit_code, 3);
  EXPECT_THAT(merged.err, HasSubstr("model-rank-1-part-0.safetensors"));
  if (!std::filesystem::exists(At("merged"))) return;
  for (const auto& entry : std::filesystem::directory_iterator(At("merged"))) {
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(name.starts_with(".dsv3-") || name.ends_with(".partial")) << name;
  }
}

}  // namespace
}  // namespace dsv3::testing
