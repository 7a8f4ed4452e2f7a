#include "convert/job/run_id.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using ::testing::ElementsAre;
using Kind = RunId::Kind;

constexpr std::string_view kBase = ".dsv3-lock";

TEST(RunNameTest, FileNamesLeadBackToTheirRuns) {
  for (const RunId& run :
       {RunId(), RunId{Kind::kPart, 3, 16}, RunId{Kind::kPart, 0, 1},
        RunId{Kind::kPart, UINT64_MAX - 1, UINT64_MAX}, RunId{Kind::kProcess, 12, 1}}) {
    EXPECT_EQ(RunOfFile(kBase, FileNameOf(kBase, run)), run) << FileNameOf(kBase, run);
  }
}

TEST(RunNameTest, NamesFilesAsDocumented) {
  EXPECT_EQ(FileNameOf(kBase, RunId()), ".dsv3-lock");
  EXPECT_EQ(FileNameOf(kBase, {Kind::kPart, 3, 16}), ".dsv3-lock-part-3-of-16");
  EXPECT_EQ(FileNameOf(kBase, {Kind::kProcess, 2, 1}), ".dsv3-lock-process-2");
}

TEST(RunNameTest, PassesOverOtherNames) {
  for (const std::string name :
       {"", "dsv3-lock", ".dsv3-lock-", ".dsv3-lock-part-", ".dsv3-lock-part-1",
        ".dsv3-lock-part-1-of-", ".dsv3-lock-part--of-2", ".dsv3-lock-part-1-of-2x",
        ".dsv3-lock-part-01-of-2", ".dsv3-lock-part-+1-of-2", ".dsv3-lock-part--1-of-2",
        ".dsv3-lock-part-1-of-18446744073709551616", ".dsv3-lock-process-", ".dsv3-lock-process-x",
        ".dsv3-lock.partial", ".dsv3-lock-part-1-of-2.partial", ".dsv3-journal"}) {
    EXPECT_FALSE(RunOfFile(kBase, name)) << name;
  }
}

TEST(RunNameTest, FindsTheJobFirstThenPartsThenProcesses) {
  const testing::TempDir dir;
  for (const std::string name : {".dsv3-lock-process-1", ".dsv3-lock-part-10-of-12",
                                 ".dsv3-lock-part-9-of-12", ".dsv3-lock", ".dsv3-lock-part-x"}) {
    testing::WriteFile(dir.path() / name, "");
  }
  EXPECT_THAT(FindRuns(dir.path(), kBase),
              ElementsAre(RunId(), RunId{Kind::kPart, 9, 12}, RunId{Kind::kPart, 10, 12},
                          RunId{Kind::kProcess, 1, 1}));
  EXPECT_THAT(FindRuns(dir.path() / "none", kBase), ElementsAre());
}

TEST(RunNameTest, ShowsPartsAsTheOptionHasThem) {
  EXPECT_EQ(ShownName({Kind::kPart, 3, 16}), "part 3/16");
  EXPECT_EQ(ShownName({Kind::kProcess, 2, 1}), "process 2");
  EXPECT_EQ(ShownName(RunId()), "this job");
}

}  // namespace
}  // namespace dsv3::convert
