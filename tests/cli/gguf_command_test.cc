#include <cstddef>
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

// dsv3-convert to-gguf from the outside.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

class GgufCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    in_ = (dir_ / "in").string();
    out_ = (dir_ / "out.gguf").string();
    ASSERT_EQ(RunTool({"dsv3-convert", "sample", in_, "--quiet"}).exit_code, 0);
  }

  ToolResult Convert(const std::vector<std::string>& options) const {
    std::vector<std::string> words = {"dsv3-convert", "to-gguf", in_, out_};
    words.insert(words.end(), options.begin(), options.end());
    return RunTool(words);
  }

  static void ExpectConforms(const std::string& text, const std::string& name) {
    ASSERT_TRUE(json::accept(text)) << text;
    const fs::path schema = fs::path(DSV3_SOURCE_DIR) / "docs/schemas" / (name + ".schema.json");
    EXPECT_EQ(SchemaComplaints(json::parse(ReadFile(schema)), json::parse(text)), "");
  }

  TempDir dir_;
  std::string in_;
  std::string out_;
};

TEST_F(GgufCommandTest, WritesAFileWithItsManifest) {
  const ToolResult done = Convert({"--type", "q8_0"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_THAT(done.out, HasSubstr("Made GGUF: " + out_ + "\n"));
  EXPECT_THAT(done.out, HasSubstr("  manifest    " + out_ + ".manifest.json\n"));
  EXPECT_THAT(done.out, HasSubstr("70: 126 of the model's in another dtype, 3 copied untouched"));
  EXPECT_THAT(done.out, HasSubstr("tensors that the file does not hold"));
  EXPECT_TRUE(fs::is_regular_file(out_));
  ExpectConforms(ReadFile(out_ + ".manifest.json"), "manifest");
  const ToolResult again = Convert({"--type", "q8_0"});
  EXPECT_EQ(again.exit_code, 0);
  EXPECT_THAT(again.out, HasSubstr("Nothing to do: " + out_));
}

TEST_F(GgufCommandTest, ReportsAsJsonAndPlans) {
  const ToolResult planned = Convert({"--type", "f16", "--dry-run"});
  EXPECT_EQ(planned.exit_code, 0) << planned.err;
  EXPECT_FALSE(fs::exists(out_));
  EXPECT_FALSE(fs::exists(out_ + ".partial"));
  const ToolResult done = Convert({"--type", "f16", "--json"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  ExpectConforms(done.out, "convert-report");
  EXPECT_EQ(json::parse(done.out)["command"], "to-gguf");
  EXPECT_FALSE(json::parse(done.out)["dropped"].empty());
}

TEST_F(GgufCommandTest, WritesSeveralFiles) {
  const std::vector<std::string> options = {"--type", "q8_0",  "--max-file-size",
                                            "1M",     "--mtp", "keep"};
  const ToolResult done = Convert(options);
  ASSERT_EQ(done.exit_code, 0) << done.err;
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(dir_.path())) {
    if (entry.path().extension() == ".gguf") ++files;
  }
  EXPECT_GT(files, 1U);
  EXPECT_TRUE(fs::exists((dir_ / "out-00001-of-0000").string() + std::to_string(files) + ".gguf"));
  EXPECT_FALSE(fs::exists(out_));
  EXPECT_FALSE(fs::exists(out_ + ".partial"));
  ExpectConforms(ReadFile(out_ + ".manifest.json"), "manifest");
  // What a reader is given is named.
  const std::string first = (dir_ / "out-00001-of-0000").string() + std::to_string(files) + ".gguf";
  EXPECT_THAT(done.out, HasSubstr("Made GGUF: " + first + "\n"));
  EXPECT_THAT(Convert(options).out, HasSubstr("Nothing to do: " + first));
  EXPECT_EQ(RunTool({"dsv3-inspect", first}).exit_code, 0);
}

TEST_F(GgufCommandTest, SharesTheFilesAmongParts) {
  const std::vector<std::string> options = {"--type", "bf16", "--max-file-size", "1M"};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = options;
    all.insert(all.end(), more.begin(), more.end());
    return Convert(all);
  };
  const ToolResult early = with({"--finish"});
  EXPECT_EQ(early.exit_code, 2);
  EXPECT_THAT(early.err, HasSubstr("no part of this job was made here"));
  const ToolResult first = with({"--part", "0/2"});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  EXPECT_THAT(first.out, HasSubstr("Made GGUF: " + out_ + "\n"));
  EXPECT_THAT(first.out, HasSubstr("then the same command with --finish"));
  EXPECT_FALSE(fs::exists(out_ + ".manifest.json"));
  ExpectConforms(with({"--part", "1/2", "--json"}).out, "convert-report");
  const ToolResult done = with({"--finish"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_THAT(done.out, HasSubstr("manifest    " + out_ + ".manifest.json"));
  EXPECT_FALSE(fs::exists(out_ + ".partial"));
}

TEST_F(GgufCommandTest, SaysWhatIsWrongWithAPlace) {
  const auto refusal = [&](const std::string& output) {
    const ToolResult result = RunTool({"dsv3-convert", "to-gguf", in_, output, "--type", "f16"});
    EXPECT_EQ(result.exit_code, 2) << output;
    return result.err;
  };
  EXPECT_THAT(refusal((dir_ / "out.bin").string()),
              HasSubstr("give it a name that ends with .gguf"));
  EXPECT_THAT(refusal((dir_ / ".gguf").string()), HasSubstr("such as model.gguf"));
  const std::string inside = refusal((fs::path(in_) / "m.gguf").string());
  EXPECT_THAT(inside, HasSubstr("it would lie in the input directory"));
  EXPECT_THAT(inside, HasSubstr("name a file in another directory"));
  EXPECT_FALSE(fs::exists(fs::path(in_) / "m.gguf.partial"));
  WriteFile(dir_ / "file", "");
  EXPECT_THAT(refusal((dir_ / "file" / "m.gguf").string()), HasSubstr("file is not a directory"));
  fs::rename(in_, (dir_ / "o.gguf.partial"));
  in_ = (dir_ / "o.gguf.partial").string();
  EXPECT_THAT(refusal((dir_ / "o.gguf").string()),
              HasSubstr("the output directory is the input directory"));
  // Directories that are missing are made.
  out_ = (dir_ / "new" / "folder" / "m.gguf").string();
  EXPECT_EQ(Convert({"--type", "f16"}).exit_code, 0);
  EXPECT_TRUE(fs::is_regular_file(out_));
}

TEST_F(GgufCommandTest, SaysHowToContinueWhatAnotherCommandBegan) {
  // A run that cannot write more than its journal.
  const ToolResult failed =
      RunTool({"/bin/sh", "-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "sh",
               DSV3_BIN_DIR "/dsv3-convert", "to-gguf", in_, out_, "--type", "q8_0"});
  ASSERT_EQ(failed.exit_code, 4) << failed.err;
  const ToolResult other = Convert({"--type", "f16"});
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_THAT(other.err, HasSubstr("dsv3-convert to-gguf --type q8_0 " + in_ + " " + out_ + "`"));
  EXPECT_THAT(other.err, HasSubstr("or choose another file; or give --overwrite to begin anew"));
  EXPECT_THAT(other.err, HasSubstr("0 of 1 shards"));
  const ToolResult again = Convert({"--type", "q8_0"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("continued"));
}

TEST_F(GgufCommandTest, KeepsFourBits) {
  in_ = (dir_ / "k2").string();
  ASSERT_EQ(RunTool({"dsv3-convert", "sample", in_, "--preset", "k2-int4", "--quiet"}).exit_code,
            0);
  const ToolResult done = Convert({"--type", "bf16", "--keep-4bit", "--json"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  ExpectConforms(done.out, "convert-report");
  EXPECT_EQ(Convert({"--type", "bf16", "--mtp", "keep", "--overwrite"}).exit_code, 3);
}

TEST_F(GgufCommandTest, RefusesWrongArguments) {
  EXPECT_EQ(Convert({}).exit_code, 2);
  EXPECT_THAT(Convert({}).err, HasSubstr("--type is missing"));
  EXPECT_EQ(Convert({"--type", "q4_0"}).exit_code, 2);
  EXPECT_EQ(Convert({"--type", "f16", "--side-files", "all"}).exit_code, 2);
  WriteFile(out_, "mine");
  const ToolResult there = Convert({"--type", "f16"});
  EXPECT_EQ(there.exit_code, 2);
  EXPECT_THAT(there.err, HasSubstr("--overwrite"));
  EXPECT_EQ(ReadFile(out_), "mine");
  EXPECT_EQ(Convert({"--type", "f16", "--overwrite"}).exit_code, 0);
  fs::remove(fs::path(in_) / "tokenizer.json");
  const ToolResult without = Convert({"--type", "bf16", "--overwrite"});
  EXPECT_EQ(without.exit_code, 3);
  EXPECT_THAT(without.err, HasSubstr("--no-tokenizer"));
}

}  // namespace
}  // namespace dsv3::testing
