// Cuts the power after every change that parts of a job and its end make.

#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/convert/support/conversion.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/recording_file_system.h"
#include "tests/support/sanitizers.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using testing::Crash;
using testing::ReadTree;
using testing::Tree;

class PartCrashTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::SmallFp8Checkpoint().Write(live_ / "in");
    in_times_ = testing::FileTimes(live_ / "in");
    fs::create_directory(live_ / "out");
    Conversion(live_ / "in", temp_ / "expected").Run();
    expected_ = ReadTree(temp_ / "expected");
  }

  static Conversion Part(const fs::path& root, std::uint64_t index) {
    Conversion conversion(root / "in", root / "out");
    conversion.request.run.part = RunOptions::Part{index, 2};
    return conversion;
  }
  static Conversion Finish(const fs::path& root) {
    Conversion conversion(root / "in", root / "out");
    conversion.request.run.finish = true;
    return conversion;
  }

  // Runs `commands` one after the other on the live directory, and calls `recover` for every state
  // that a power cut can leave. Then the whole output must be there.
  void ForEachCrash(const std::vector<Conversion>& commands,
                    const std::function<void(const fs::path& state)>& recover) {
    testing::QuickFileSystem quick;
    testing::RecordingFileSystem recorder(quick, live_);
    for (const Conversion& command : commands) command.Run(recorder);
    EXPECT_GT(recorder.operations().size(), 20U);
    std::set<Tree> seen;
    testing::ForEachCrash(
        recorder, temp_ / "state", in_times_, seen,
        [&](const fs::path& state) {
          testing::ExpectNothingHalfDone(testing::TreeOrNothing(state / "out"), {expected_});
          try {
            recover(state);
          } catch (const Error& error) {
            ADD_FAILURE() << error.what();
          }
          testing::ExpectSameTree(ReadTree(state / "out"), expected_);
        },
        testing::Stride(5));
  }

  testing::TempDir temp_{testing::MemoryDirectory()};
  fs::path live_ = temp_ / "live";
  std::map<std::string, fs::file_time_type> in_times_;
  Tree expected_;
};

TEST_F(PartCrashTest, PartsAndFinishRecoverFromEveryPowerCut) {
  ForEachCrash({Part(live_, 1), Part(live_, 0), Finish(live_)}, [](const fs::path& state) {
    Part(state, 0).Run();
    Part(state, 1).Run();
    Finish(state).Run();
  });
}

TEST_F(PartCrashTest, ARunOfTheWholeJobTakesOverAfterEveryPowerCut) {
  ForEachCrash({Part(live_, 0), Part(live_, 1), Finish(live_)},
               [](const fs::path& state) { Conversion(state / "in", state / "out").Run(); });
}

TEST_F(PartCrashTest, JournalsThatAreJoinedSurviveEveryPowerCut) {
  Part(live_, 0).Run();
  Part(live_, 1).Run();
  ForEachCrash({Conversion(live_ / "in", live_ / "out")},
               [](const fs::path& state) { Conversion(state / "in", state / "out").Run(); });
}

TEST_F(PartCrashTest, PartsGoOnAfterEveryPowerCutOfARunOfTheWholeJob) {
  ForEachCrash({Conversion(live_ / "in", live_ / "out")}, [](const fs::path& state) {
    Part(state, 1).Run();
    Part(state, 0).Run();
    Finish(state).Run();
  });
}

}  // namespace
}  // namespace dsv3::convert
