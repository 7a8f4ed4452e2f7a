#include "formats/message_text.h"

#include <cstdint>
#include <filesystem>

#include <gtest/gtest.h>

#include "formats/given_paths.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

TEST(ShellWordTest, LeavesOrdinaryPathsAlone) {
  for (const char* word : {"model.safetensors", "/a/b_c-1+2=3:4,5@6%7", "模型/ä.json"}) {
    EXPECT_EQ(ShellWord(word), word);
  }
}

TEST(ShellWordTest, QuotesWhatAShellWouldTakeApart) {
  EXPECT_EQ(ShellWord(""), "''");
  EXPECT_EQ(ShellWord("my model"), "'my model'");
  EXPECT_EQ(ShellWord("model.layers.*"), "'model.layers.*'");
  EXPECT_EQ(ShellWord("~/x"), "'~/x'");
  EXPECT_EQ(ShellWord("it's"), R"('it'\''s')");
  EXPECT_EQ(ShellWord("a\\b"), R"('a\b')");
}

TEST(ShellWordTest, ShowsHiddenCharactersAndOtherBytesByTheirNumbers) {
  EXPECT_EQ(ShellWord("a\nb"), R"($'a\x0ab')");
  EXPECT_EQ(ShellWord("\x1b[2Jit's"), R"($'\x1b[2Jit\'s')");
  EXPECT_EQ(ShellWord("\xff"
                      "a\\"),
            R"($'\xffa\\')");
  EXPECT_EQ(ShellWord("ä\xc2\x85"
                      "b\xe2"),
            R"($'ä\xc2\x85b\xe2')");
  EXPECT_EQ(ShellWord("a\xe2\x80\xae"), R"($'a\xe2\x80\xae')");
}

TEST(ShownPathTest, IsAsItWasGiven) {
  const std::filesystem::path here = std::filesystem::current_path();
  EXPECT_EQ(ShownPath(here / "a/b"), (here / "a/b").string());
  NoteGivenPath("a/");
  NoteGivenPath("a/b/../my c");
  NoteGivenPath("");
  NoteGivenPath("/");
  EXPECT_EQ(ShownPath(here / "a"), "a");
  EXPECT_EQ(ShownPath(here / "a/"), "a");
  EXPECT_EQ(ShownPath(here / "a/b/d"), "a/b/d");
  EXPECT_EQ(ShownPath(here / "a/my c/d"), "'a/b/../my c/d'");
  EXPECT_EQ(ShownPath(here / "ab"), (here / "ab").string());
  NoteGivenPath("c/d/e.json");
  EXPECT_EQ(ShownPath(here / "c/d/e.json"), "c/d/e.json");
  EXPECT_EQ(ShownPath(here / "c/d"), "c/d");
  EXPECT_EQ(ShownPath(here / "c"), (here / "c").string());
  EXPECT_EQ(ShownAbsolutePath(here / "a"), (here / "a").string());
  EXPECT_EQ(ShownAbsolutePath("a/b"), (here / "a/b").string());
  NoteGivenPath(".");
  EXPECT_EQ(ShownPath(here), ".");
  EXPECT_EQ(ShownPath(here / "ab/d"), "ab/d");
  EXPECT_EQ(ShownPath("/other"), "/other");
}

TEST(ShownPathTest, IsFromTheRootWhereThatIsAskedFor) {
  const testing::TempDir dir;
  EXPECT_EQ(ShownPath("a b"), "'a b'");
  EXPECT_EQ(ShownAbsolutePath("a"), (std::filesystem::current_path() / "a").string());
  EXPECT_EQ(ShownAbsolutePath("/a/./b/"), "/a/b");
  EXPECT_EQ(ShownAbsolutePath("/"), "/");
  // "link/.." is the parent of what the link leads to.
  std::filesystem::create_directories(dir / "x/y");
  std::filesystem::create_directory_symlink(dir / "x/y", dir / "link");
  EXPECT_EQ(ShownAbsolutePath(dir / "link/../z"),
            (std::filesystem::canonical(dir.path()) / "x/z").string());
}

TEST(ShownBytesTest, HaveOneDecimalAndWhereItMattersEveryByte) {
  EXPECT_EQ(ShownBytes(1), "1 byte");
  EXPECT_EQ(ShownBytes(999), "999 bytes");
  EXPECT_EQ(ShownBytes(4'612'345), "4.6 MB");
  EXPECT_EQ(ExactBytes(0), "0 bytes");
  EXPECT_EQ(ExactBytes(1000), "1.0 kB (1,000 bytes)");
  EXPECT_EQ(ExactBytes(UINT64_MAX), "18.4 EB (18,446,744,073,709,551,615 bytes)");
}

}  // namespace
}  // namespace dsv3::formats
