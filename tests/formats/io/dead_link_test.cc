#include "formats/io/dead_link.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"
#include "formats/io/input_file.h"
#include "tests/formats/expect_error.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;

class DeadLinkTest : public ::testing::Test {
 protected:
  testing::TempDir dir_{testing::MemoryDirectory()};
};

TEST_F(DeadLinkTest, SaysWhereTheLinkLeads) {
  testing::WriteFile(dir_ / "file", "x");
  fs::create_symlink("file", dir_ / "alive");
  fs::create_symlink("../blobs/12 ab", dir_ / "dead");
  fs::create_symlink("dead", dir_ / "chain");
  EXPECT_EQ(DeadLinkProblem(dir_ / "file"), "");
  EXPECT_EQ(DeadLinkProblem(dir_ / "missing"), "");
  EXPECT_EQ(DeadLinkProblem(dir_ / "alive"), "");
  EXPECT_EQ(DeadLinkProblem(dir_ / "dead"),
            "a dead link, a symlink to '../blobs/12 ab', which does not exist");
  EXPECT_EQ(DeadLinkProblem(dir_ / "chain"),
            "a dead link, a symlink to dead and by it to '../blobs/12 ab', which does not exist");
  fs::create_symlink("circle", dir_ / "circle");
  EXPECT_EQ(DeadLinkProblem(dir_ / "circle"), "a dead link, which leads in a circle");
  EXPECT_EQ(DeadLinkProblem(dir_ / "dead" / "x"),
            "in " + (dir_ / "dead").string() +
                ", which is a dead link, a symlink to '../blobs/12 ab', which does not exist");
}

TEST_F(DeadLinkTest, IsNamedWhereverAPathIsOpened) {
  fs::create_symlink("blobs/1", dir_ / "dead");
  const std::string expected = "a dead link, a symlink to blobs/1, which does not exist";
  testing::ExpectBadInput([&] { InputFile(dir_ / "dead", "dead"); }, "dead: it is " + expected);
  testing::ExpectBadInput([&] { ReadSmallFile(dir_ / "dead", 10); }, expected);
  testing::ExpectBadInput([&] { LocateCheckpoint(dir_ / "dead"); }, expected);
}

}  // namespace
}  // namespace dsv3::formats
