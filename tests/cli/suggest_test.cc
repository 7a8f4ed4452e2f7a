#include "cli/suggest.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace dsv3::cli {
namespace {

const std::vector<std::string> kNames = {"threads",       "memory",    "dry-run",
                                         "tensor-sha256", "overwrite", "yes"};

TEST(NearestTest, FindsWhatIsAFewLettersOff) {
  EXPECT_EQ(Nearest("thread", kNames), "threads");
  EXPECT_EQ(Nearest("treads", kNames), "threads");
  EXPECT_EQ(Nearest("memroy", kNames), "memory");
  EXPECT_EQ(Nearest("dryrun", kNames), "dry-run");
  EXPECT_EQ(Nearest("tensor_sha-256", kNames), "tensor-sha256");
  EXPECT_EQ(Nearest("yse", kNames), "yes");
}

TEST(NearestTest, CountsASwapAsOneMistake) {
  // Two substitutions would be too far for a word this short.
  EXPECT_EQ(Nearest("ab", {"ba"}), "ba");
}

TEST(NearestTest, FindsTheOnlyNameThatBeginsSo) {
  EXPECT_EQ(Nearest("over", kNames), "overwrite");
  EXPECT_EQ(Nearest("tens", {"tensor-sha256", "tensor-sha512"}), "");
}

TEST(NearestTest, FindsNothingFarAway) {
  EXPECT_EQ(Nearest("verbose", kNames), "");
  EXPECT_EQ(Nearest("", kNames), "");
  EXPECT_EQ(Nearest("x", kNames), "");
  EXPECT_EQ(Nearest(std::string(1000000, 'x'), kNames), "");
}

TEST(NearestTest, PrefersTheNearest) {
  EXPECT_EQ(Nearest("abcdefgx", {"abcdefzz", "abcdefgh"}), "abcdefgh");
}

}  // namespace
}  // namespace dsv3::cli
