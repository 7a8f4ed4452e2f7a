#include "cli/output_file.h"

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/cli/run_tool.h"
#include "tests/formats/signature_vectors.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ReadFile;
using testing::RunTool;
using ::testing::StartsWith;
using testing::TempDir;
using testing::ToolResult;
using testing::WriteFile;

std::string MessageOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    return error.message();
  }
  return "";
}

TEST(OutputFileTest, TakesThePlaceOfTextsAndOfDataOfItsOwnKind) {
  const TempDir dir;
  struct Case {
    OutputContent content;
    std::string text;
    bool is_data;
  };
  const Case cases[] = {
      {OutputContent::kJUnit, "<?xml version=\"1.0\"?>\n<testsuites name=\"t\">", false},
      {OutputContent::kSarif, "{\n  \"$schema\": \"https://x/sarif-schema-2.1.0.json\"", true},
      {OutputContent::kSvg, "<svg xmlns=\"http://www.w3.org/2000/svg\">", false},
      {OutputContent::kNumpy, "\x93NUMPY\x01", true},
      {OutputContent::kTrace,
       "\x50\x01 {\"__metadata__\":{\"made_by\":\"dsv3-verify forward --trace\"}", true},
  };
  const auto message_of = [&](OutputContent content) {
    return MessageOf([&] { CheckOutputFile("junit", (dir / "file").string(), content); });
  };
  for (const Case& there : cases) {
    for (const Case& asked : cases) {
      WriteFile(dir / "file", there.text);
      if (asked.content == there.content || !there.is_data) {
        EXPECT_EQ(message_of(asked.content), "");
      } else {
        EXPECT_THAT(message_of(asked.content),
                    AllOf(StartsWith("--junit: "), HasSubstr("so it is not replaced")));
      }
      EXPECT_EQ(ReadFile(dir / "file"), there.text);
    }
  }
  WriteFile(dir / "file", " \n{\"architectures\": []}");
  EXPECT_THAT(message_of(OutputContent::kSarif),
              HasSubstr("file: a file of this name is there that is not a SARIF report, so it is "
                        "not replaced; remove it, or give another FILE"));
  for (const char* text : {"", "what was here before\n"}) {
    WriteFile(dir / "file", text);
    for (const Case& asked : cases) EXPECT_EQ(message_of(asked.content), "");
  }
  EXPECT_EQ(MessageOf([&] { CheckOutputFile("s", "", OutputContent::kSvg); }), "");
}

TEST(OutputFileTest, TwoOptionsCannotNameOneFile) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "sub");
  const std::string file = (dir / "file").string();
  EXPECT_EQ(MessageOf([&] { RequireDistinctFiles({{"a", file}, {"b", ""}, {"c", ""}}); }), "");
  EXPECT_EQ(MessageOf([&] { RequireDistinctFiles({{"a", file}, {"b", file + "2"}}); }), "");
  const std::string expected = "--a and --c name the same file, ";
  for (const std::string& same : {file, (dir / "sub/../file").string()}) {
    EXPECT_THAT(MessageOf([&] {
                  RequireDistinctFiles({{"a", file}, {"b", ""}, {"c", same}});
                }),
                StartsWith(expected));
  }
  WriteFile(dir / "file", "");
  std::filesystem::create_symlink("file", dir / "link");
  EXPECT_THAT(MessageOf([&] {
                RequireDistinctFiles({{"a", file}, {"c", (dir / "link").string()}});
              }),
              StartsWith(expected));
}

class OutputOptionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(RunTool({"dsv3-convert", "sample", model_, "--quiet"}).exit_code, 0);
  }

  std::string Path(const std::string& name) const { return (dir_ / name).string(); }

  void ExpectRefused(const std::vector<std::string>& words, const std::string& text) const {
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 2) << result.out;
    EXPECT_THAT(result.err, HasSubstr(text));
  }

  TempDir dir_;
  std::string model_ = Path("model");
};

TEST_F(OutputOptionTest, FilesGoThroughLinksToWhatTheseLeadTo) {
  namespace fs = std::filesystem;
  fs::create_directory(dir_ / "kept");
  WriteFile(dir_ / "kept/old.sarif", "");
  fs::create_symlink("kept/new.xml", dir_ / "junit.xml");
  fs::create_symlink(dir_ / "kept/old.sarif", dir_ / "first");
  fs::create_symlink("first", dir_ / "second");
  fs::create_symlink("kept/logits.npy", dir_ / "logits.npy");
  const ToolResult result =
      RunTool({"dsv3-verify", "forward", model_, "--junit", Path("junit.xml"), "--sarif",
               Path("second"), "--logits-out", Path("logits.npy")});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const char* const link : {"junit.xml", "first", "second", "logits.npy"}) {
    EXPECT_TRUE(fs::is_symlink(dir_ / link)) << link;
  }
  EXPECT_THAT(ReadFile(dir_ / "kept/new.xml"), HasSubstr("<testsuite"));
  EXPECT_THAT(ReadFile(dir_ / "kept/old.sarif"), HasSubstr("sarif"));
  EXPECT_THAT(ReadFile(dir_ / "kept/logits.npy"), StartsWith("\x93NUMPY"));

  fs::create_symlink("loop", dir_ / "loop");
  ExpectRefused({"dsv3-verify", "structure", model_, "--junit", Path("loop")},
                "its links form a loop; name a file");
}

TEST_F(OutputOptionTest, NoFileOfTheModelIsReplaced) {
  const std::string not_replaced = "so it is not replaced; remove it, or give another FILE";
  const std::string index = model_ + "/model.safetensors.index.json";
  const std::string shard = model_ + "/model-00001-of-00004.safetensors";
  const std::string before = ReadFile(index) + ReadFile(shard);
  ExpectRefused({"dsv3-verify", "structure", model_, "--junit", index}, not_replaced);
  ExpectRefused({"dsv3-verify", "all", model_, "--sarif", index}, not_replaced);
  for (const char* option : {"--trace", "--logits-out", "--hidden-out", "--mtp-logits-out"}) {
    ExpectRefused({"dsv3-verify", "forward", model_, option, shard}, not_replaced);
  }
  ExpectRefused({"dsv3-reshard", "--tp", "2", model_, Path("out"), "--balance-svg", index},
                not_replaced);
  EXPECT_TRUE(ReadFile(index) + ReadFile(shard) == before) << "a file of the model changed";
}

TEST_F(OutputOptionTest, EachFileIsOneOptions) {
  const std::string same = " name the same file, ";
  const std::string file = Path("x");
  ExpectRefused({"dsv3-verify", "structure", model_, "--junit", file, "--sarif", file},
                "--junit and --sarif" + same);
  ExpectRefused({"dsv3-verify", "forward", model_, "--logits-out", file, "--hidden-out", file},
                "--logits-out and --hidden-out" + same);
  WriteFile(dir_ / "ids", "1,2,3\n");
  ExpectRefused(
      {"dsv3-verify", "forward", model_, "--tokens-file", Path("ids"), "--sarif", Path("./ids")},
      "--tokens-file and --sarif" + same);
  EXPECT_EQ(ReadFile(dir_ / "ids"), "1,2,3\n");
}

TEST_F(OutputOptionTest, AWrongCallWritesNoFindings) {
  for (const char* check : {"structure", "all"}) {
    ExpectRefused({"dsv3-verify", check, model_, "--config", model_ + "/config.json", "--junit",
                   Path("j.xml")},
                  "--config: ");
    EXPECT_FALSE(std::filesystem::exists(dir_ / "j.xml")) << check;
  }
}

TEST_F(OutputOptionTest, ThePictureIsNoFileOfTheShards) {
  std::filesystem::create_directory(dir_ / "ranks");
  ExpectRefused({"dsv3-reshard", "--tp", "1", model_, Path("ranks"), "--balance-svg",
                 Path("ranks/config.json")},
                "config.json: it lies in OUT, where a file of the shards may have this name");
  const ToolResult drawn = RunTool({"dsv3-reshard", "--tp", "1", "--dry-run", "--quiet", model_,
                                    Path("ranks"), "--balance-svg", Path("ranks/b.svg")});
  EXPECT_EQ(drawn.exit_code, 0) << drawn.err;
  EXPECT_THAT(ReadFile(dir_ / "ranks/b.svg"), HasSubstr("<svg"));
}

// Parts start at the same time, and would write one file at the same time.
TEST_F(OutputOptionTest, OfSeveralPartsTheFirstDraws) {
  const auto draws = [&](const char* part) {
    const ToolResult result =
        RunTool({"dsv3-reshard", "--tp", "1", "--ep", "2", "--quiet", model_, Path("ranks"),
                 "--part", part, "--balance-svg", Path("b.svg")});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return std::filesystem::exists(dir_ / "b.svg");
  };
  EXPECT_FALSE(draws("1/2"));
  EXPECT_TRUE(draws("0/2"));
}

TEST_F(OutputOptionTest, PlacesWhereNoFileCanBeAreNamed) {
  WriteFile(dir_ / "key.pem", testing::kSignatureVectors[0].private_key);
  std::filesystem::create_directory(dir_ / "directory");
  const std::vector<std::string> sign = {"dsv3-verify", "sign",          model_,
                                         "--key",       Path("key.pem"), "--signature"};
  const auto to = [&](const std::string& place) {
    std::vector<std::string> words = sign;
    words.push_back(place);
    return words;
  };
  ExpectRefused(to(Path("directory")), "directory: it is a directory, and a file is to be written");
  ExpectRefused(to("/dev/null"),
                "/dev/null: it is a device or a pipe, and a file is to be written");
  ExpectRefused(to(Path("no/x.sig")), "there is no directory " + Path("no") + "; make it, or give");
  ExpectRefused(to(Path("key.pem/x")), "key.pem: it is no directory, and a file is to be written");
  ExpectRefused({"dsv3-verify", "checksum", "create", model_, "--output", Path("key.pem")},
                "key.pem: it is no directory, and a file is to be written into it");
}

TEST_F(OutputOptionTest, ChecksumsThatAreNotMadeLeaveNoDirectory) {
  WriteFile(std::filesystem::path(model_) / "SHA256SUMS", std::string(64, '0') + "  config.json\n");
  const ToolResult result =
      RunTool({"dsv3-verify", "checksum", "create", model_, "--output", Path("a/b"), "--quiet"});
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_FALSE(std::filesystem::exists(dir_ / "a"));
}

}  // namespace
}  // namespace dsv3::cli
