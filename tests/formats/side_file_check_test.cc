#include "formats/side_file_check.h"

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/files.h"
#include "tests/support/other_user.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::string_view kLfs =
    "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";

class SideFileCheckTest : public ::testing::Test {
 protected:
  // The message about a file of this name and content; empty where there is no finding.
  std::string Of(const std::string& name, std::string_view content) {
    testing::WriteFile(dir_ / name, content);
    const std::optional<Finding> finding = FindBrokenSideFile(dir_ / name, name);
    if (!finding) return "";
    EXPECT_EQ(finding->kind, "broken-side-file");
    EXPECT_EQ(finding->file, name);
    EXPECT_EQ(finding->severity, Severity::kWarning);
    return finding->message;
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
};

TEST_F(SideFileCheckTest, WhatAFailedDownloadLeftIsNamed) {
  EXPECT_THAT(Of("tokenizer.json", "<!DOCTYPE html><p>404"),
              StartsWith("tokenizer.json: it is an HTML page, perhaps a login or error page"));
  EXPECT_THAT(Of("tokenizer.model", kLfs), HasSubstr("git-lfs pointer"));
  EXPECT_THAT(Of("chat_template.jinja", "<?xml version='1.0'?><Error/>"), HasSubstr("XML"));
  EXPECT_THAT(Of("inference/model.py", kLfs), HasSubstr("git-lfs pointer"));
}

TEST_F(SideFileCheckTest, JsonThatIsEmptyZeroOrCutOffIsNamed) {
  EXPECT_THAT(Of("a.json", ""), HasSubstr("the file is empty, which is not valid JSON; download"));
  EXPECT_THAT(Of("a.json", std::string(5000, '\0')), HasSubstr("it begins with zeros"));
  const std::string whole = "\xEF\xBB\xBF {\"a\": [" + std::string(5000, ' ') + "1]}";
  EXPECT_EQ(Of("a.json", whole + " \r\n"), "");
  for (const std::size_t cut : {1U, 2U, 3000U}) {
    EXPECT_EQ(Of("a.json", whole.substr(0, whole.size() - cut)),
              cut == 3000 ? ""  // white space is all that the end shows
                          : "a.json: it begins with { and does not end with }, so it is cut off; "
                            "download it again");
  }
  EXPECT_THAT(Of("a.json", "[1, 2"), HasSubstr("begins with [ and does not end with ]"));
  EXPECT_THAT(Of("a.json", "{\"a\": 1}" + std::string(100, '\0')), HasSubstr("cut off"));
}

TEST_F(SideFileCheckTest, WhatMayNotBeReadIsNamed) {
  namespace fs = std::filesystem;
  fs::permissions(dir_.path(), fs::perms::all);
  for (const std::string name : {"tokenizer.json", "vocab.bpe"}) {
    testing::WriteFile(dir_ / name, "{}");
    fs::permissions(dir_ / name, fs::perms::none);
  }
  const testing::OtherUser other;
  for (const std::string name : {"tokenizer.json", "vocab.bpe"}) {
    const std::optional<Finding> finding = FindBrokenSideFile(dir_ / name, name);
    ASSERT_TRUE(finding) << name;
    EXPECT_EQ(finding->kind, kUnreadableSideFile);
    EXPECT_EQ(finding->file, name);
    EXPECT_THAT(finding->message,
                ::testing::AllOf(HasSubstr("cannot open " + name + ": Permission denied"),
                                 HasSubstr("check the permissions")));
  }
}

TEST_F(SideFileCheckTest, WhatMayBeRightIsLeftAlone) {
  for (const std::string_view text : {"{}", "[]\n", "true", "\"text\"", " 7 "}) {
    EXPECT_EQ(Of("a.json", text), "") << text;
  }
  // Of other texts nobody knows how they end, and of other files not even that they are texts.
  EXPECT_EQ(Of("merges.txt", ""), "");
  EXPECT_EQ(Of("tokenizer.model", std::string(64, '\0')), "");
  EXPECT_EQ(Of("index.html", "<html>"), "");
  EXPECT_EQ(Of(".gitattributes", kLfs), "");
  EXPECT_EQ(Of("README.md", "<html>"), "");
  // Its readers say more.
  EXPECT_EQ(Of("config.json", ""), "");
  EXPECT_FALSE(FindBrokenSideFile(dir_ / "there-is-none.json", "there-is-none.json"));
}

}  // namespace
}  // namespace dsv3::formats
