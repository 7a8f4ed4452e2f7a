#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/run_options.h"
#include "convert/job/work_sharing.h"
#include "convert/recipes/dequantize.h"
#include "tests/convert/recipes/dequantize_test.h"
#include "tests/convert/support/checkpoint_checks.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/reshard.h"
#include "tests/convert/support/thread_sharing.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/recording_file_system.h"

// Runs of dequantize: in parts, by several processes, and cut off anywhere.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kParts = 3;

class DequantizeRunTest : public DequantizeTest {
 protected:
  Conversion CommandTo(const fs::path& output) const {
    Conversion conversion = Command();
    conversion.request.output = output;
    return conversion;
  }

  void RunInParts(const fs::path& output) const {
    for (std::uint64_t part = 0; part < kParts; ++part) {
      Conversion conversion = CommandTo(output);
      conversion.request.run.part = convert::RunOptions::Part{part, kParts};
      conversion.Run();
    }
    Conversion finish = CommandTo(output);
    finish.request.run.finish = true;
    finish.Run();
  }

  void RunByProcesses(const fs::path& output) const {
    ThreadGroup group(kParts);
    for (const auto& error : group.Run([&](convert::WorkSharing& sharing) {
           Conversion conversion = CommandTo(output);
           conversion.request.run.sharing = &sharing;
           conversion.Run();
         })) {
      EXPECT_FALSE(error) << error->message();
    }
  }

  // Whatever makes the output, it has the bytes of one run.
  void ExpectOneOutput() {
    CommandTo(dir_ / "whole").Run();
    const Tree expected = ReadTree(dir_ / "whole");
    RunInParts(dir_ / "parts");
    ExpectSameTree(ReadTree(dir_ / "parts"), expected);
    RunByProcesses(dir_ / "shared");
    ExpectSameTree(ReadTree(dir_ / "shared"), expected);
  }
};

// The weight of a form three times, each in another shard than its scales.
void WriteThreeShards(Made made, const fs::path& directory) {
  TinyCheckpoint checkpoint = made.checkpoint;
  checkpoint.tensors.clear();
  constexpr const char* kShards[] = {kTinyShard1, kTinyShard2, kTinyShard3};
  for (std::size_t copy = 0; copy < 3; ++copy) {
    for (TinyTensor tensor : made.checkpoint.tensors) {
      const bool is_codes = tensor.shard == kTinyShard1;
      tensor.shard = kShards[(copy + (is_codes ? 0 : 1)) % 3];
      tensor.name = "model.layers." + std::to_string(copy + 1) + tensor.name.substr(14);
      checkpoint.tensors.push_back(tensor);
    }
  }
  checkpoint.Write(directory);
}

class EachFormDequantizeRunTest : public DequantizeRunTest,
                                  public ::testing::WithParamInterface<QuantizedCase> {};

INSTANTIATE_TEST_SUITE_P(Forms, EachFormDequantizeRunTest, ::testing::ValuesIn(kCases),
                         [](const auto& form) { return std::string(form.param.name); });

TEST_P(EachFormDequantizeRunTest, PartsAndProcessesMakeTheSame) {
  WriteThreeShards(GetParam().make(), in());
  ExpectOneOutput();
}

TEST_P(EachFormDequantizeRunTest, RecoversFromEveryPowerCut) {
  const TempDir temp{MemoryDirectory()};
  const fs::path live = temp / "live";
  WriteThreeShards(GetParam().make(), live / "in");
  WriteFile(live / "out" / "placeholder", "");
  fs::remove(live / "out" / "placeholder");
  const auto command = [](const fs::path& root) -> Conversion {
    return {root / "in", root / "out", convert::DequantizeConversion()};
  };
  Conversion whole = command(live);
  whole.request.output = temp / "expected";
  whole.Run();
  const Tree expected = ReadTree(temp / "expected");
  const auto in_times = FileTimes(live / "in");
  QuickFileSystem quick;
  RecordingFileSystem recorder(quick, live);
  command(live).Run(recorder);
  std::set<Tree> seen;
  ForEachCrash(recorder, temp / "state", in_times, seen, [&](const fs::path& state) {
    ExpectNothingHalfDone(TreeOrNothing(state / "out"), {expected});
    command(state).Run();
    ExpectSameTree(ReadTree(state / "out"), expected);
  });
  EXPECT_GT(seen.size(), 10U);
}

class RankDequantizeTest : public DequantizeRunTest {
 protected:
  // Rank shards of a model with experts in NVFP4.
  RankDequantizeTest() {
    MakeSample(convert::SamplePreset::kNvFp4, 1, dir_ / "model");
    convert::ReshardOptions options;
    options.parallel.tp = 2;
    options.parallel.ep = 2;
    options.on_misaligned = convert::OnMisaligned::kReplicateModule;
    RunReshard(dir_ / "model", in(), options);
  }
};

TEST_F(RankDequantizeTest, MakesTheBf16OfTheModel) {
  Command().Run();
  Conversion(dir_ / "model", dir_ / "expected", convert::DequantizeConversion()).Run();
  ExpectSameFiles(out(), dir_ / "expected");
}

TEST_F(RankDequantizeTest, PartsAndProcessesMakeTheSame) { ExpectOneOutput(); }

TEST_F(RankDequantizeTest, GoesOnWhereTheDiskFailed) {
  Command().Run();
  const Tree expected = ReadTree(out());
  QuickFileSystem quick;
  std::size_t failed = 0;
  for (const std::size_t at : {0U, 7U, 20U, 33U, 48U}) {
    fs::remove_all(out());
    FaultyFileSystem faulty(quick, at, EIO, FaultyFileSystem::Failing::kFromThenOn);
    const Error error = ErrorOf([&] { Command().Run(faulty); });
    failed += error.code() == ErrorCode::kIo ? 1 : 0;
    ExpectNothingHalfDone(TreeOrNothing(out()), {expected});
    Command().Run();
    ExpectSameTree(ReadTree(out()), expected);
  }
  EXPECT_EQ(failed, 5U);
}

}  // namespace
}  // namespace dsv3::testing
