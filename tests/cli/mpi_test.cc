// Commands whose work processes share, started by mpirun on this machine.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/run_tool.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

using testing::ReadTree;
using testing::ToolResult;

constexpr char kMpirun[] = DSV3_MPIRUN;

std::size_t Count(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++count;
  }
  return count;
}

class MpiTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (std::string(kMpirun).empty()) return;
    dir_ = new testing::TempDir();
    ASSERT_EQ(testing::RunTool({"dsv3-convert", "sample", In(), "--preset", "tiny"}).exit_code, 0);
    ASSERT_EQ(testing::RunTool({"dsv3-convert", "fp8-to-bf16", In(), Bf16()}).exit_code, 0);
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }
  void SetUp() override {
    if (std::string(kMpirun).empty()) GTEST_SKIP() << "this build has no MPI";
    fs::remove_all(out_);
  }

  static std::string In() { return *dir_ / "in"; }
  static std::string Bf16() { return *dir_ / "bf16"; }

  // `words` in several processes. Each runs `wrapper`, a shell script, with them as arguments.
  static ToolResult Run(int processes, std::vector<std::string> words,
                        const std::string& wrapper = "exec \"$@\"") {
    words[0] = DSV3_BIN_DIR "/" + words[0];
    std::vector<std::string> all = {
        kMpirun, "--oversubscribe", "--bind-to", "none", "-n", std::to_string(processes), "/bin/sh",
        "-c",    wrapper,           "wrapper"};
    all.insert(all.end(), words.begin(), words.end());
    testing::ToolSetting setting;
    setting.environment = {{"OMPI_ALLOW_RUN_AS_ROOT", "1"},
                           {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
                           {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
                           {"HOME", *dir_ / "home"},
                           // Open MPI keeps what it allocated to its end.
                           {"ASAN_OPTIONS", "detect_leaks=0"}};
    return testing::RunTool(all, setting);
  }

  static void ExpectSame(const fs::path& found, const fs::path& expected) {
    EXPECT_TRUE(ReadTree(found) == ReadTree(expected)) << found << " differs from " << expected;
  }

  static testing::TempDir* dir_;
  const std::string out_ = dir_ == nullptr ? std::string() : std::string(*dir_ / "out");
};

testing::TempDir* MpiTest::dir_ = nullptr;

TEST_F(MpiTest, ProcessesMakeTheFilesThatOneMakes) {
  for (const int processes : {2, 4}) {
    fs::remove_all(out_);
    const ToolResult result = Run(processes, {"dsv3-convert", "fp8-to-bf16", "--json", In(), out_});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    // One report, of all.
    const nlohmann::json report = nlohmann::json::parse(result.out);
    EXPECT_EQ(report.at("outcome"), "converted");
    EXPECT_EQ(Count(result.err, "converting"), 1U) << result.err;
    ExpectSame(out_, Bf16());
  }
}

TEST_F(MpiTest, QuantisesAndGoesBack) {
  const std::string alone = *dir_ / "alone";
  for (const std::string block : {"128x128", "tensor"}) {
    fs::remove_all(alone);
    fs::remove_all(out_);
    const std::vector<std::string> words = {"dsv3-convert", "bf16-to-fp8", "--block", block,
                                            Bf16()};
    std::vector<std::string> one = words;
    one.push_back(alone);
    ASSERT_EQ(testing::RunTool(one).exit_code, 0);
    std::vector<std::string> several = words;
    several.push_back(out_);
    EXPECT_EQ(Run(3, several).exit_code, 0);
    ExpectSame(out_, alone);
  }
}

TEST_F(MpiTest, WritesGgufInSeveralFilesAndInOne) {
  for (const std::string size : {"1M", "1G"}) {
    const std::string alone = *dir_ / ("gguf" + size);
    const auto write = [&](const std::string& directory) {
      fs::create_directory(directory);
      return std::vector<std::string>{"dsv3-convert", "to-gguf", "--type",
                                      "bf16",         "--json",  "--max-file-size",
                                      size,           In(),      directory + "/m.gguf"};
    };
    ASSERT_EQ(testing::RunTool(write(alone)).exit_code, 0);
    fs::remove_all(out_);
    const ToolResult result = Run(3, write(out_));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(nlohmann::json::parse(result.out).at("outcome"), "converted");
    ExpectSame(out_, alone);
    const ToolResult again = Run(2, write(out_));
    EXPECT_EQ(again.exit_code, 0) << again.err;
    EXPECT_EQ(nlohmann::json::parse(again.out).at("outcome"), "nothing-to-do");
    ExpectSame(out_, alone);
  }
}

TEST_F(MpiTest, ReshardsAndMerges) {
  const std::string alone = *dir_ / "ranks";
  const std::string merged = *dir_ / "merged";
  const auto cut = [](const std::string& output) {
    return std::vector<std::string>{
        "dsv3-reshard",       "--tp", "2",  "--ep", "4", "--dense-tp", "1",
        "--shared-expert-tp", "1",    In(), output};
  };
  ASSERT_EQ(testing::RunTool(cut(alone)).exit_code, 0);
  const ToolResult ranks = Run(3, cut(out_));
  EXPECT_EQ(ranks.exit_code, 0) << ranks.err;
  ExpectSame(out_, alone);
  const ToolResult back = Run(2, {"dsv3-reshard", "merge", out_, merged});
  EXPECT_EQ(back.exit_code, 0) << back.err;
  fs::remove(fs::path(merged) / "checkpoint.manifest.json");
  ExpectSame(merged, In());
}

TEST_F(MpiTest, OneProcessDrawsTheBalance) {
  // The place is there for process 0 alone.
  const std::string pictures = *dir_ / "pictures";
  fs::create_directories(pictures + "/sub");
  const std::string wrapper = "[ $OMPI_COMM_WORLD_RANK != 0 ] || cd " + pictures + "; exec \"$@\"";
  const std::vector<std::string> words = {"dsv3-reshard", "--tp", "1", In(), out_, "--balance-svg"};
  const auto to = [&](const std::string& file) {
    std::vector<std::string> more = words;
    more.push_back(file);
    return more;
  };
  const ToolResult drawn = Run(3, to("sub/balance.svg"), wrapper);
  EXPECT_EQ(drawn.exit_code, 0) << drawn.err;
  EXPECT_TRUE(fs::exists(pictures + "/sub/balance.svg"));
  fs::remove_all(out_);
  const ToolResult refused = Run(3, to("/proc/balance.svg"));
  EXPECT_EQ(refused.exit_code, 4);
  EXPECT_EQ(Count(refused.err, "--balance-svg: cannot create"), 1U) << refused.err;
}

TEST_F(MpiTest, PacksWeightDeltas) {
  const std::string next = *dir_ / "next";
  const std::string alone = *dir_ / "deltas";
  ASSERT_EQ(testing::RunTool({"dsv3-convert", "sample", next, "--preset", "tiny", "--seed", "2"})
                .exit_code,
            0);
  const auto pack = [&](const std::string& output) {
    return std::vector<std::string>{
        "dsv3-convert",     "pack", "--base", In(),  "--form", "pull-weights", "--idempotent",
        "--weight-version", "1",    next,     output};
  };
  ASSERT_EQ(testing::RunTool(pack(alone)).exit_code, 0);
  const ToolResult result = Run(3, pack(out_));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  ExpectSame(out_, alone);
}

TEST_F(MpiTest, AnErrorOfAllIsToldOnce) {
  const ToolResult result = Run(3, {"dsv3-convert", "fp8-to-bf16", *dir_ / "none", out_});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(Count(result.err, "dsv3-convert: error: "), 1U) << result.err;
  EXPECT_EQ(Count(result.err, "there is no such file or directory"), 1U) << result.err;
  const ToolResult usage = Run(2, {"dsv3-convert", "fp8-to-bf16", "--json", "--wrong", In(), out_});
  EXPECT_EQ(usage.exit_code, 2);
  EXPECT_EQ(nlohmann::json::parse(usage.out).at("error").at("code"), "usage") << usage.out;
}

TEST_F(MpiTest, OneProcessThatFailsStopsAllAndTheSameCommandContinues) {
  // Process 1 cannot write a byte.
  const std::string wrapper =
      "trap '' XFSZ; [ \"$OMPI_COMM_WORLD_RANK\" = 1 ] && ulimit -f 0; exec \"$@\"";
  const ToolResult failed = Run(3, {"dsv3-convert", "fp8-to-bf16", In(), out_}, wrapper);
  EXPECT_EQ(failed.exit_code, 4);
  EXPECT_EQ(Count(failed.err, "dsv3-convert: error: "), 1U) << failed.err;
  EXPECT_THAT(failed.err, HasSubstr(".dsv3-journal-process-1"));
  EXPECT_FALSE(fs::exists(fs::path(out_) / "model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(fs::path(out_) / "checkpoint.manifest.json"));
  const ToolResult again = Run(2, {"dsv3-convert", "fp8-to-bf16", In(), out_});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  ExpectSame(out_, Bf16());
}

TEST_F(MpiTest, AProcessThatFailsLeavesNoGgufFile) {
  const std::string wrapper =
      "trap '' XFSZ; [ \"$OMPI_COMM_WORLD_RANK\" = 1 ] && ulimit -f 0; exec \"$@\"";
  fs::create_directory(out_);
  const std::vector<std::string> words = {"dsv3-convert", "to-gguf", "--type",
                                          "f16",          "--json",  "--max-file-size",
                                          "1M",           In(),      out_ + "/m.gguf"};
  const ToolResult failed = Run(3, words, wrapper);
  EXPECT_EQ(failed.exit_code, 4) << failed.err;
  EXPECT_TRUE(fs::is_directory(out_ + "/m.gguf.partial"));
  EXPECT_EQ(std::distance(fs::directory_iterator(out_), fs::directory_iterator()), 1);
  const ToolResult again = testing::RunTool(words);
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_FALSE(fs::exists(out_ + "/m.gguf.partial"));
  EXPECT_TRUE(fs::exists(out_ + "/m.gguf.manifest.json"));
}

TEST_F(MpiTest, AKilledProcessEndsTheJobAndOneProcessContinues) {
  // Killed as soon as it has begun to write, or later.
  const std::string wrapper =
      "if [ \"$OMPI_COMM_WORLD_RANK\" != 1 ]; then exec \"$@\"; fi\n"
      "\"$@\" & tool=$!\n"
      "while [ ! -e '" +
      out_ +
      "/.dsv3-journal-process-1' ] && kill -0 $tool 2>/dev/null; do :; done\n"
      "kill -9 $tool 2>/dev/null; wait $tool";
  Run(3, {"dsv3-convert", "fp8-to-bf16", In(), out_}, wrapper);
  const ToolResult again = testing::RunTool({"dsv3-convert", "fp8-to-bf16", In(), out_});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  ExpectSame(out_, Bf16());
}

TEST_F(MpiTest, WhatIsNotSharedIsDoneOnce) {
  const ToolResult version = Run(3, {"dsv3-convert", "--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_EQ(Count(version.out, "MPI yes (Open MPI "), 1U) << version.out;
  const ToolResult sample = Run(2, {"dsv3-convert", "sample", out_, "--preset", "tiny"});
  EXPECT_EQ(sample.exit_code, 0) << sample.err;
  ExpectSame(out_, In());
  const ToolResult part =
      Run(2, {"dsv3-convert", "fp8-to-bf16", "--part", "0/2", In(), *dir_ / "parts"});
  EXPECT_EQ(part.exit_code, 2);
  EXPECT_THAT(part.err, HasSubstr("--part does not go with mpirun"));
}

TEST_F(MpiTest, OneProcessRunsAsWithoutMpirun) {
  const ToolResult one = Run(1, {"dsv3-convert", "fp8-to-bf16", In(), out_});
  EXPECT_EQ(one.exit_code, 0) << one.err;
  ExpectSame(out_, Bf16());
}

}  // namespace
}  // namespace dsv3::cli
