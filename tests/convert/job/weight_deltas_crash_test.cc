// Cuts the power after every change while weight deltas are made or applied, and continues.

#include <cstddef>
#include <filesystem>
#include <functional>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "convert/job/runner.h"
#include "tests/convert/job/weight_deltas_test.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/support/files.h"
#include "tests/support/recording_file_system.h"
#include "tests/support/sanitizers.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;

class WeightDeltasCrashTest : public WeightDeltasTest {
 protected:
  using Commands = std::function<std::vector<Conversion>(const fs::path& root)>;

  // Runs `commands` one after the other on live_/in, and `recovery` from every state that a power
  // cut leaves.
  void ExpectRecovers(const Commands& commands, const Commands& recovery) {
    const auto in_times = FileTimes(live_ / "in");
    fs::create_directories(dir_ / "whole");
    fs::copy(live_ / "in", dir_ / "whole" / "in", fs::copy_options::recursive);
    RestoreFileTimes(dir_ / "whole" / "in", in_times);
    for (const Conversion& command : commands(dir_ / "whole")) command.Run();
    const Tree expected = ReadTree(dir_ / "whole" / "out");

    fs::create_directories(live_ / "out");
    QuickFileSystem quick;
    RecordingFileSystem recorder(quick, live_);
    for (const Conversion& command : commands(live_)) command.Run(recorder);
    EXPECT_GT(recorder.operations().size(), 40U);
    std::set<Tree> seen;
    ForEachCrash(
        recorder, dir_ / "state", in_times, seen,
        [&](const fs::path& state) {
          ExpectNothingHalfDone(TreeOrNothing(state / "out"), {expected});
          try {
            for (const Conversion& command : recovery(state)) command.Run();
          } catch (const Error& error) {
            ADD_FAILURE() << error.message();
          }
          ExpectSameTree(ReadTree(state / "out"), expected);
        },
        Stride(5));
    EXPECT_GT(seen.size(), 20U);
  }

  Commands WholeJob(bool unpack) const {
    return [this, unpack](const fs::path& root) { return std::vector{Command(root, unpack)}; };
  }
  Commands Parts(bool unpack) const {
    return [this, unpack](const fs::path& root) {
      const Conversion whole = Command(root, unpack);
      return std::vector{PartOf(whole, 1), PartOf(whole, 0), FinishOf(whole)};
    };
  }

  fs::path live_ = dir_ / "live";

 private:
  Conversion Command(const fs::path& root, bool unpack) const {
    return unpack ? Unpack(root / "in", root / "out") : Pack(root / "in", root / "out");
  }
};

TEST_P(WeightDeltasCrashTest, PackingRecoversFromEveryPowerCut) {
  WriteVersions(live_ / "in");
  ExpectRecovers(WholeJob(false), WholeJob(false));
}

TEST_P(WeightDeltasCrashTest, PartsThatPackRecoverFromEveryPowerCut) {
  WriteVersions(live_ / "in");
  ExpectRecovers(Parts(false), Parts(false));
}

TEST_P(WeightDeltasCrashTest, ARunOfTheWholeJobTakesPartsOverAfterEveryPowerCut) {
  WriteVersions(live_ / "in");
  ExpectRecovers(Parts(false), WholeJob(false));
}

TEST_P(WeightDeltasCrashTest, UnpackingRecoversFromEveryPowerCut) {
  WriteVersions(dir_ / "in");
  Pack(dir_ / "in", live_ / "in").Run();
  ExpectRecovers(WholeJob(true), WholeJob(true));
}

TEST_P(WeightDeltasCrashTest, PartsThatUnpackRecoverFromEveryPowerCut) {
  WriteVersions(dir_ / "in");
  Pack(dir_ / "in", live_ / "in").Run();
  ExpectRecovers(Parts(true), Parts(true));
}

INSTANTIATE_TEST_SUITE_P(Encodings, WeightDeltasCrashTest, ::testing::Bool());

}  // namespace
}  // namespace dsv3::testing
