#include "formats/unfinished_job.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

TEST(UnfinishedJobTest, NamesTheFileThatIsMadeInADirectory) {
  const testing::TempDir dir(testing::MemoryDirectory());
  const std::filesystem::path making = dir / "m.gguf.partial";
  EXPECT_EQ(OutputOfJob(making), dir / "m.gguf");
  EXPECT_EQ(OutputOfJob(making / ""), dir / "m.gguf");
  EXPECT_EQ(OutputOfJob(dir / "out"), dir / "out");
  EXPECT_EQ(OutputOfJob(dir / "x.partial"), dir / "x.partial");
  EXPECT_EQ(UnfinishedJobOf(dir / "m.gguf"), "");
  std::filesystem::create_directories(making);
  EXPECT_EQ(UnfinishedJobOf(dir / "m.gguf"), "") << "no journal";
  testing::WriteFile(
      making / ".dsv3-journal",
      DigestedLine(R"({"dsv3_journal":2,"recipe":"merge","sources":[],"outputs":["a","b"],)"
                   R"("replaced":[],"sides":[]})") +
          DigestedLine(R"({"file":"b","bytes":1,"digests":["",""],"tensors":[]})"));
  EXPECT_EQ(UnfinishedJobOf(dir / "m.gguf"), making);
  EXPECT_EQ(UnfinishedJobOf(dir / "m"), "");
  EXPECT_EQ(DescribeUnfinishedJob(*ReadJobProgress(making), making),
            "a conversion (merge) into " + (dir / "m.gguf").string() +
                " is under way or was interrupted; 1 of 2 files are complete: wait for it, or "
                "continue it with: dsv3-reshard merge IN " +
                (dir / "m.gguf").string());
}

}  // namespace
}  // namespace dsv3::formats
