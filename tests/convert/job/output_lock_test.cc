#include "convert/job/output_lock.h"

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/convert/support/conversion.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using ::testing::HasSubstr;

int NoLocks(int, int) {
  errno = ENOLCK;
  return -1;
}

std::string HostName() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name;
}

// A process that has ended, and been waited for.
pid_t DeadProcess() {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  waitpid(child, nullptr, 0);
  return child;
}

// With flock, and on file systems that have none.
class OutputLockTest : public ::testing::TestWithParam<OutputLock::Flock> {
 protected:
  ErrorCode SecondLock() const {
    return testing::ErrorOf([&] { OutputLock(dir_.path(), GetParam()); }).code();
  }
  bool FileIsThere() const { return std::filesystem::exists(dir_.path() / kLockName); }

  testing::TempDir dir_;
};

TEST_P(OutputLockTest, RefusesASecondRunAndNamesTheFirst) {
  const OutputLock lock(dir_.path(), GetParam());
  const Error error = testing::ErrorOf([&] { OutputLock(dir_.path(), GetParam()); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("another run is writing to this directory"));
  EXPECT_THAT(error.message(), HasSubstr("process " + std::to_string(getpid())));
  EXPECT_THAT(error.message(), HasSubstr(dir_.path().string()));
  EXPECT_TRUE(FileIsThere()) << "the refused run took the file of the first away";
}

TEST_P(OutputLockTest, RefusesAnotherProcess) {
  const OutputLock lock(dir_.path(), GetParam());
  const pid_t child = fork();
  if (child == 0) _exit(SecondLock() == ErrorCode::kUsage ? 0 : 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST_P(OutputLockTest, LeavesNoFileAndIsFreeAgain) {
  for (int round = 0; round < 2; ++round) {
    std::optional<OutputLock> lock;
    lock.emplace(dir_.path(), GetParam());
    EXPECT_TRUE(FileIsThere());
    lock.reset();
    EXPECT_FALSE(FileIsThere());
  }
}

TEST_P(OutputLockTest, TakesOverTheFileOfADeadProcess) {
  testing::WriteFile(dir_.path() / kLockName,
                     std::to_string(DeadProcess()) + " " + HostName() + "\n");
  { const OutputLock lock(dir_.path(), GetParam()); }
  EXPECT_FALSE(FileIsThere());
}

TEST_P(OutputLockTest, MissingDirectoryIsAnIoError) {
  const Error error = testing::ErrorOf([&] { OutputLock(dir_ / "none", GetParam()); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
}

constexpr RunId PartOf(std::uint64_t index, std::uint64_t count) {
  return {RunId::Kind::kPart, index, count};
}

TEST_P(OutputLockTest, PartsHoldTheirLocksSideBySide) {
  const RunLocks first(dir_.path(), PartOf(0, 2), GetParam());
  const RunLocks second(dir_.path(), PartOf(1, 2), GetParam());
  EXPECT_TRUE(std::filesystem::exists(dir_ / ".dsv3-lock-part-0-of-2"));
  EXPECT_TRUE(std::filesystem::exists(dir_ / ".dsv3-lock-part-1-of-2"));
  const Error error = testing::ErrorOf([&] { RunLocks(dir_.path(), PartOf(1, 2), GetParam()); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("another run is making part 1/2 (process " +
                                         std::to_string(getpid()) + " on " + HostName()));
}

TEST_P(OutputLockTest, ARunOfTheWholeJobIsRefusedWhileAPartRuns) {
  const RunLocks part(dir_.path(), PartOf(1, 2), GetParam());
  const Error error = testing::ErrorOf([&] { RunLocks(dir_.path(), RunId(), GetParam()); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("making part 1/2"));
  EXPECT_FALSE(FileIsThere()) << "the refused run left its lock";
}

TEST_P(OutputLockTest, PartsAreRefusedWhileTheWholeJobRuns) {
  const RunLocks whole(dir_.path(), RunId(), GetParam());
  const Error error = testing::ErrorOf([&] { RunLocks(dir_.path(), PartOf(0, 2), GetParam()); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("another run is writing to this directory"));
  EXPECT_TRUE(FileIsThere()) << "the refused part took the file of the run away";
  EXPECT_FALSE(std::filesystem::exists(dir_ / ".dsv3-lock-part-0-of-2"));
}

TEST_P(OutputLockTest, PartsOfAnotherNumberAreRefused) {
  const RunLocks part(dir_.path(), PartOf(0, 2), GetParam());
  const Error error = testing::ErrorOf([&] { RunLocks(dir_.path(), PartOf(1, 3), GetParam()); });
  EXPECT_THAT(error.message(), HasSubstr("making part 0/2"));
}

TEST_P(OutputLockTest, LocksOfDeadRunsAreNoObstacle) {
  const std::string dead = std::to_string(DeadProcess()) + " " + HostName() + "\n";
  const auto leave = [&] {
    for (const char* name : {".dsv3-lock", ".dsv3-lock-part-0-of-2", ".dsv3-lock-part-0-of-3"}) {
      testing::WriteFile(dir_.path() / name, dead);
    }
  };
  leave();
  {
    const RunLocks first(dir_.path(), PartOf(0, 2), GetParam());
    const RunLocks second(dir_.path(), PartOf(1, 2), GetParam());
  }
  leave();
  { const RunLocks whole(dir_.path(), RunId(), GetParam()); }
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path()));
}

INSTANTIATE_TEST_SUITE_P(Flock, OutputLockTest, ::testing::Values(&::flock, &NoLocks),
                         [](const auto& param) {
                           return param.param == &NoLocks ? "ByExistence" : "ByFlock";
                         });

TEST(OutputLockByExistenceTest, LeavesTheFileOfAnotherHostToTheUser) {
  const testing::TempDir dir;
  testing::WriteFile(dir.path() / kLockName, "1 another-host\n");
  const Error error = testing::ErrorOf([&] { OutputLock(dir.path(), NoLocks); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("process 1 on another-host"));
  EXPECT_THAT(error.message(), HasSubstr("remove " + (dir.path() / kLockName).string()));
  EXPECT_EQ(testing::ReadFile(dir.path() / kLockName), "1 another-host\n");
}

TEST(OutputLockByExistenceTest, TakesAnEmptyFileForARunThatIsStarting) {
  const testing::TempDir dir;
  testing::WriteFile(dir.path() / kLockName, "");
  const Error error = testing::ErrorOf([&] { OutputLock(dir.path(), NoLocks); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_TRUE(std::filesystem::exists(dir.path() / kLockName));
}

TEST(OutputLockByExistenceTest, NamesTheFileOfARunElsewhereThatAPartMustNotPass) {
  const testing::TempDir dir;
  testing::WriteFile(dir.path() / kLockName, "1 another-host\n");
  const Error error = testing::ErrorOf([&] {
    RunLocks(dir.path(), {RunId::Kind::kPart, 0, 2}, NoLocks);
  });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("remove " + (dir.path() / kLockName).string()));
}

TEST(OutputLockByFlockTest, AStaleFileOfAnotherHostIsNoObstacle) {
  const testing::TempDir dir;
  testing::WriteFile(dir.path() / kLockName, "1 another-host\n");
  { const OutputLock lock(dir.path()); }
  EXPECT_FALSE(std::filesystem::exists(dir.path() / kLockName));
}

}  // namespace
}  // namespace dsv3::convert
