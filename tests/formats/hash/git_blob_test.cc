#include "formats/hash/git_blob.h"

#include <gtest/gtest.h>

#include "tests/support/files.h"

namespace dsv3::formats {
namespace {

// Names that `git hash-object` prints.
TEST(GitBlobTest, NamesContentAsGitDoes) {
  EXPECT_EQ(GitBlobSha1Hex({}), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
  EXPECT_EQ(GitBlobSha1Hex(testing::AsBytes("hello\n")),
            "ce013625030ba8dba906f756967f9e9ca394464a");
}

TEST(GitBlobTest, TakesTheContentInPieces) {
  GitBlobSha1 hash(6);
  hash.Update(testing::AsBytes("hel"));
  hash.Update({});
  hash.Update(testing::AsBytes("lo\n"));
  EXPECT_EQ(hash.FinishHex(), "ce013625030ba8dba906f756967f9e9ca394464a");
}

}  // namespace
}  // namespace dsv3::formats
