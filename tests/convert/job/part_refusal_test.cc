// What parts of a conversion are refused.

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/journal.h"
#include "convert/job/manifest.h"
#include "convert/job/output_lock.h"
#include "tests/convert/support/part_test.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using ::testing::HasSubstr;
using testing::ReadTree;
using Outcome = ConversionReport::Outcome;
using Tree = std::map<std::string, std::string>;

class PartRefusalTest : public testing::PartTest {};

TEST_F(PartRefusalTest, FinishIsRefusedWhileAPartIsMissing) {
  ExpectRefused(Finish(), ErrorCode::kUsage, "no part of this job was made here");
  EXPECT_FALSE(fs::exists(out_));
  Part(1, 3).Run();
  ExpectRefused(Finish(), ErrorCode::kUsage, "part 0/3");
  ExpectRefused(Finish(), ErrorCode::kUsage, "part 2/3 (" + std::string(testing::kTinyShard3));
  Part(0, 3).Run();
  ExpectRefused(
      Finish(), ErrorCode::kUsage,
      "parts are missing or not complete: part 2/3 (" + std::string(testing::kTinyShard3));
  Part(2, 3).Run();
  Finish().Run();
  ExpectFinished();
}

TEST_F(PartRefusalTest, FinishIsRefusedForAFileThatIsGoneOrCutOff) {
  Part(0, 2).Run();
  Part(1, 2).Run();
  const fs::path file = out_ / testing::kTinyShard3;
  fs::resize_file(file, fs::file_size(file) - 1);
  ExpectRefused(Finish(), ErrorCode::kUsage, "part 1/2 (" + std::string(testing::kTinyShard3));
  fs::remove(file);
  ExpectRefused(Finish(), ErrorCode::kUsage, "part 1/2");
  fs::remove(out_ / "config.json");
  ExpectRefused(Finish(), ErrorCode::kUsage, "part 0/2 (config.json)");
  Part(0, 2).Run();
  Part(1, 2).Run();
  Finish().Run();
  ExpectFinished();
}

TEST_F(PartRefusalTest, TheSamePartTwiceAtOnceIsRefused) {
  Part(0, 2).Run();
  const OutputLock first(out_, ::flock, {RunId::Kind::kPart, 0, 2});
  const Error error = testing::ErrorOf([&] { Part(0, 2).Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("another run is making part 0/2 (process "));
  Part(1, 2).Run();
}

TEST_F(PartRefusalTest, PartsAndRunsOfTheWholeJobKeepEachOtherOut) {
  Part(0, 2).Run();
  {
    const OutputLock part(out_, ::flock, {RunId::Kind::kPart, 1, 2});
    for (const Conversion& conversion : {Whole(), Finish(), Part(0, 3)}) {
      const Error error = testing::ErrorOf([&] { conversion.Run(); });
      EXPECT_EQ(error.code(), ErrorCode::kUsage) << error.message();
    }
  }
  const OutputLock whole(out_);
  const Error error = testing::ErrorOf([&] { Part(0, 2).Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("another run is writing to this directory"));
}

TEST_F(PartRefusalTest, AnotherNumberOfPartsIsRefused) {
  Part(0, 2).Run();
  ExpectRefused(Part(1, 3), ErrorCode::kUsage, "part 0/2 was begun here, and this is part 1/3");
}

TEST_F(PartRefusalTest, AnotherSourceIsRefused) {
  Part(0, 2).Run();
  // The same headers, other values, another time.
  testing::TinyCheckpoint other = testing::SmallFp8Checkpoint();
  other.Find("router.bias").bytes[0] ^= 1;
  other.Write(dir_ / "other");
  Conversion part = Part(1, 2);
  part.request.input = dir_ / "other";
  ExpectRefused(part, ErrorCode::kBadInput, "part 0/2 was made from another source: model-0000");
  Conversion finish = Finish();
  finish.request.input = dir_ / "other";
  ExpectRefused(finish, ErrorCode::kBadInput, "part 0/2 was made from another source");
}

TEST_F(PartRefusalTest, OtherScalesAreAnotherSourceEvenWithTheSameTimes) {
  Part(0, 2).Run();
  const auto times = testing::FileTimes(in_);
  testing::TinyCheckpoint other = testing::SmallFp8Checkpoint();
  // A scale of another shard than those that part 1 reads weights of.
  std::string& scale = other.Find("c.weight_scale_inv").bytes;
  scale[scale.size() - 4] = static_cast<char>(scale[scale.size() - 4] ^ 1);
  other.Write(in_);
  testing::RestoreFileTimes(in_, times);
  const Tree before = ReadTree(out_);
  const Error error = testing::ErrorOf([&] { Part(1, 2).Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
  EXPECT_THAT(error.message(), HasSubstr("c.weight_scale_inv"));
  EXPECT_TRUE(ReadTree(out_) == before);
}

TEST_F(PartRefusalTest, OtherOptionsAreRefused) {
  Part(0, 2).Run();
  Conversion part = Part(1, 2);
  part.request.run.tensor_sha256 = true;
  ExpectRefused(part, ErrorCode::kUsage, "part 0/2 was begun by another command");
}

TEST_F(PartRefusalTest, AForeignFileIsRefused) {
  testing::WriteFile(out_ / testing::kTinyShard3, "mine");
  ExpectRefused(Part(0, 2), ErrorCode::kUsage, "is not empty");
  fs::remove_all(out_);
  Part(0, 2).Run();
  testing::WriteFile(out_ / testing::kTinyShard3, "mine");
  ExpectRefused(Part(1, 2), ErrorCode::kUsage, "is in the way");
  // Another part's matter.
  EXPECT_EQ(Part(0, 2).Run().outcome, Outcome::kPartDone);
}

TEST_F(PartRefusalTest, OptionsThatContradictPartsAreRefused) {
  for (Conversion conversion : {Part(0, 2), Finish()}) {
    conversion.request.run.overwrite = true;
    ExpectRefused(conversion, ErrorCode::kUsage, "does not go with --overwrite");
    conversion.request.run.overwrite = false;
    conversion.request.run.delete_source_shards = true;
    ExpectRefused(conversion, ErrorCode::kUsage, "does not go with --delete-source-shards");
  }
  ExpectRefused(Part(2, 2), ErrorCode::kUsage, "--part");
  ExpectRefused(Part(0, 0), ErrorCode::kUsage, "--part");
}

TEST_F(PartRefusalTest, APartLeavesTheOutputOfAnotherJobAlone) {
  Conversion other = Whole();
  other.request.run.tensor_sha256 = true;
  other.Run();
  ExpectRefused(Part(0, 2), ErrorCode::kUsage, "holds the finished output of another command");
  // An overwrite that was begun is for a run of the whole job to go on with.
  Conversion overwrite = Whole();
  overwrite.request.run.overwrite = true;
  testing::QuickFileSystem quick;
  for (std::size_t at = 0; fs::exists(out_ / kManifestName); ++at) {
    testing::FaultyFileSystem faulty(quick, at, EIO,
                                     testing::FaultyFileSystem::Failing::kFromThenOn);
    testing::ErrorOf([&] { overwrite.Run(faulty); });
  }
  ASSERT_TRUE(fs::exists(out_ / testing::kTinyShard3));
  ExpectRefused(Part(0, 2), ErrorCode::kUsage,
                "is to be replaced by this job, and a part cannot do that");
  Whole().Run();
  ExpectFinished();
}

}  // namespace
}  // namespace dsv3::convert
