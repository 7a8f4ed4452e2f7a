// Cuts the power after every change while a checkpoint is packed or unpacked, and continues.

#include <filesystem>
#include <map>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "convert/recipes/pack.h"
#include "convert/recipes/unpack.h"
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
using testing::ReadTree;
using testing::Tree;

class PackCrashTest : public ::testing::Test {
 protected:
  // Runs the command on temp_/live/in, and again from every state that a power cut leaves.
  void ExpectRecovers(const ConversionKind& kind, bool deletes_source) {
    const fs::path live = temp_ / "live";
    const auto in_times = testing::FileTimes(live / "in");
    const auto command = [&](const fs::path& root) {
      Conversion conversion(root / "in", root / "out", kind);
      conversion.request.run.delete_source_shards = deletes_source;
      return conversion;
    };
    fs::create_directories(temp_ / "whole");
    fs::copy(live / "in", temp_ / "whole" / "in", fs::copy_options::recursive);
    testing::RestoreFileTimes(temp_ / "whole" / "in", in_times);
    command(temp_ / "whole").Run();
    const Tree expected = ReadTree(temp_ / "whole" / "out");

    fs::create_directories(live / "out");
    testing::QuickFileSystem quick;
    testing::RecordingFileSystem recorder(quick, live);
    command(live).Run(recorder);
    EXPECT_GT(recorder.operations().size(), 40U);
    std::set<Tree> seen;
    testing::ForEachCrash(
        recorder, temp_ / "state", in_times, seen,
        [&](const fs::path& state) {
          testing::ExpectNothingHalfDone(testing::TreeOrNothing(state / "out"), {expected});
          const Error error = testing::ErrorOf([&] {
            command(state).Run();
            throw Error(ErrorCode::kInternal, "done");
          });
          EXPECT_EQ(error.message(), "done");
          testing::ExpectSameTree(ReadTree(state / "out"), expected);
        },
        testing::Stride(5));
  }

  testing::TempDir temp_{testing::MemoryDirectory()};
};

TEST_F(PackCrashTest, PackingRecoversFromEveryPowerCut) {
  testing::SmallFp8Checkpoint().Write(temp_ / "live" / "in");
  ExpectRecovers(PackConversion(), false);
}

TEST_F(PackCrashTest, PackingThatDeletesTheSourceRecoversFromEveryPowerCut) {
  testing::SmallFp8Checkpoint().Write(temp_ / "live" / "in");
  ExpectRecovers(PackConversion(), true);
}

TEST_F(PackCrashTest, PackingAgainstABaseRecoversFromEveryPowerCut) {
  testing::SmallFp8Checkpoint().Write(temp_ / "base");
  Conversion cast(temp_ / "base", temp_ / "live" / "in");
  cast.Run();
  fs::remove(temp_ / "live" / "in" / "checkpoint.manifest.json");
  ExpectRecovers(PackConversion({.base = temp_ / "base"}), false);
}

TEST_F(PackCrashTest, UnpackingRecoversFromEveryPowerCut) {
  testing::SmallFp8Checkpoint().Write(temp_ / "in");
  Conversion(temp_ / "in", temp_ / "live" / "in", PackConversion()).Run();
  ExpectRecovers(UnpackConversion(), false);
}

TEST_F(PackCrashTest, UnpackingWithAManifestOfInRecoversFromEveryPowerCut) {
  testing::SmallFp8Checkpoint().Write(temp_ / "in");
  testing::WriteFile(temp_ / "in" / "checkpoint.manifest.json", "the manifest of IN");
  Conversion(temp_ / "in", temp_ / "live" / "in", PackConversion()).Run();
  ExpectRecovers(UnpackConversion(), false);
}

}  // namespace
}  // namespace dsv3::convert
