// What a conversion does with an output directory that is not empty.

#include "convert/job/output_state.h"

#include <chrono>
#include <filesystem>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/journal.h"
#include "convert/job/manifest.h"
#include "convert/job/output_lock.h"
#include "formats/job_journal.h"
#include "formats/message_text.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using ::testing::HasSubstr;
using Outcome = ConversionReport::Outcome;

class OutputStateTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::SmallFp8Checkpoint().Write(in_); }

  Conversion Command(bool overwrite = false) const {
    Conversion conversion(in_, out_);
    conversion.request.run.overwrite = overwrite;
    return conversion;
  }
  // Another job on the same output.
  Conversion OtherCommand(bool overwrite = false) const {
    Conversion conversion = Command(overwrite);
    conversion.request.run.tensor_sha256 = true;
    return conversion;
  }

  // What the command makes where nothing is in its way.
  testing::Tree Uninterrupted() const {
    Conversion conversion(in_, dir_ / "expected");
    conversion.Run();
    return testing::ReadTree(dir_ / "expected");
  }

  // Ends a run by a failing disk when its first shard is in place.
  void Interrupt(const Conversion& conversion) const {
    testing::QuickFileSystem quick;
    for (std::size_t at = 0;; ++at) {
      testing::FaultyFileSystem faulty(quick, at, EIO,
                                       testing::FaultyFileSystem::Failing::kFromThenOn);
      const Error error = testing::ErrorOf([&] { conversion.Run(faulty); });
      ASSERT_EQ(error.code(), ErrorCode::kIo) << error.message();
      if (fs::exists(out_ / testing::kTinyShard1)) return;
    }
  }

  // The same before the file `name` is complete.
  void InterruptBefore(const Conversion& conversion, const std::string& name) const {
    testing::QuickFileSystem quick;
    for (std::size_t at = 0; ReadJournals(out_).runs.empty(); ++at) {
      testing::FaultyFileSystem faulty(quick, at, EIO,
                                       testing::FaultyFileSystem::Failing::kFromThenOn);
      ASSERT_EQ(testing::ErrorOf([&] { conversion.Run(faulty); }).code(), ErrorCode::kIo);
    }
    ASSERT_EQ(ReadJournals(out_).files.count(name), 0U);
  }

  // The command must fail with this code and message and touch nothing.
  void ExpectRefused(const Conversion& conversion, ErrorCode code, const std::string& message) {
    const std::string before = Listing();
    const Error error = testing::ErrorOf([&] { conversion.Run(); });
    EXPECT_EQ(error.code(), code) << error.message();
    EXPECT_THAT(error.message(), HasSubstr(message));
    EXPECT_EQ(Listing(), before);
  }
  std::string Listing() const {
    return fs::is_directory(out_) ? testing::DetailedListing(out_) : "";
  }

  // What the refusals of a run under way touch: the lock file comes and goes.
  void ExpectRefusedUnderLock(const Conversion& conversion, ErrorCode code,
                              const std::string& message) {
    const auto before = testing::ReadTree(out_);
    const Error error = testing::ErrorOf([&] { conversion.Run(); });
    EXPECT_EQ(error.code(), code) << error.message();
    EXPECT_THAT(error.message(), HasSubstr(message));
    EXPECT_EQ(testing::ReadTree(out_), before);
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  const fs::path in_ = dir_ / "in";
  const fs::path out_ = dir_ / "out";
};

TEST_F(OutputStateTest, MissingDirectoryIsMadeWithItsParents) {
  Conversion conversion(in_, dir_ / "a" / "b" / "c");
  EXPECT_EQ(conversion.Run().outcome, Outcome::kConverted);
  EXPECT_TRUE(fs::exists(dir_ / "a" / "b" / "c" / kManifestName));
}

TEST_F(OutputStateTest, EmptyDirectoryAndRootOfAFileSystemAreFresh) {
  fs::create_directories(out_ / "lost+found");
  EXPECT_EQ(Command().Run().outcome, Outcome::kConverted);
  EXPECT_TRUE(fs::is_directory(out_ / "lost+found"));
}

TEST_F(OutputStateTest, WhatAKilledRunLeftBeforeItsJournalIsFresh) {
  testing::WriteFile(out_ / kLockName, "");
  testing::WriteFile(out_ / ".dsv3-journal.partial", "torn");
  EXPECT_EQ(Command().Run().outcome, Outcome::kConverted);
  EXPECT_FALSE(fs::exists(out_ / kLockName));
  EXPECT_FALSE(fs::exists(out_ / ".dsv3-journal.partial"));
}

TEST_F(OutputStateTest, RefusesWhatIsNotADirectory) {
  testing::WriteFile(out_, "file");
  ExpectRefused(Command(), ErrorCode::kUsage, "is not a directory");
  ExpectRefused(Command(true), ErrorCode::kUsage, "is not a directory");
  fs::remove(out_);
  fs::create_symlink(dir_ / "nowhere", out_);
  ExpectRefused(Command(), ErrorCode::kUsage, "symlink to nothing");
  EXPECT_FALSE(fs::exists(dir_ / "nowhere"));
}

TEST_F(OutputStateTest, WritesThroughASymlinkToADirectory) {
  fs::create_directory(dir_ / "elsewhere");
  fs::create_symlink(dir_ / "elsewhere", out_);
  EXPECT_EQ(Command().Run().outcome, Outcome::kConverted);
  EXPECT_TRUE(fs::exists(dir_ / "elsewhere" / kManifestName));
}

TEST_F(OutputStateTest, RefusesForeignFiles) {
  testing::WriteFile(out_ / "notes.txt", "mine");
  ExpectRefused(Command(), ErrorCode::kUsage, "not empty");
}

TEST_F(OutputStateTest, OverwriteLeavesForeignFilesElsewhereAlone) {
  testing::WriteFile(out_ / "notes.txt", "mine");
  testing::WriteFile(out_ / "sub" / "more.txt", "mine too");
  EXPECT_EQ(Command(true).Run().outcome, Outcome::kConverted);
  EXPECT_EQ(testing::ReadFile(out_ / "notes.txt"), "mine");
  EXPECT_EQ(testing::ReadFile(out_ / "sub" / "more.txt"), "mine too");
  EXPECT_EQ(OtherCommand(true).Run().outcome, Outcome::kConverted);
  EXPECT_EQ(testing::ReadFile(out_ / "notes.txt"), "mine");
}

TEST_F(OutputStateTest, OverwriteReplacesFilesOfOthersWhoseNamesItWrites) {
  const testing::Tree expected = Uninterrupted();
  for (const std::string name :
       {"README.md", "code/modeling_tiny.py", "model-00001-of-00004.safetensors", "config.json",
        "model.safetensors.index.json", "checkpoint.manifest.json"}) {
    fs::remove_all(out_);
    testing::WriteFile(out_ / name, "mine");
    testing::WriteFile(out_ / "model-00009-of-00009.safetensors", "of another checkpoint");
    ExpectRefused(Command(), ErrorCode::kUsage, "give --overwrite: it replaces " + name);
    EXPECT_EQ(Command(true).Run().outcome, Outcome::kConverted);
    testing::Tree tree = testing::ReadTree(out_);
    EXPECT_EQ(tree["model-00009-of-00009.safetensors"], "of another checkpoint");
    tree.erase("model-00009-of-00009.safetensors");
    testing::ExpectSameTree(tree, expected);
  }
}

TEST_F(OutputStateTest, OverwriteReplacesALinkAndNotWhereItLeads) {
  fs::create_directory(out_);
  fs::create_symlink(dir_ / "nowhere", out_ / "README.md");
  testing::WriteFile(dir_ / "blob", "of others");
  fs::create_symlink(dir_ / "blob", out_ / "config.json");
  EXPECT_EQ(Command(true).Run().outcome, Outcome::kConverted);
  EXPECT_FALSE(fs::exists(dir_ / "nowhere"));
  EXPECT_EQ(testing::ReadFile(dir_ / "blob"), "of others");
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(out_ / "config.json")));
}

TEST_F(OutputStateTest, OverwriteRefusesADirectoryWithTheNameOfAFile) {
  testing::WriteFile(out_ / "config.json" / "mine.txt", "mine");
  ExpectRefused(Command(true), ErrorCode::kUsage, "config.json is a directory, and this command");
}

TEST_F(OutputStateTest, OverwriteRefusesAFileOrALinkInPlaceOfADirectory) {
  testing::WriteFile(out_ / "code", "mine");
  ExpectRefused(Command(true), ErrorCode::kUsage,
                "code is a file, and this command needs a directory of that name for "
                "code/modeling_tiny.py");
  fs::remove(out_ / "code");
  testing::WriteFile(dir_ / "elsewhere" / "modeling_tiny.py", "of others");
  fs::create_symlink(dir_ / "elsewhere", out_ / "code");
  ExpectRefused(Command(true), ErrorCode::kUsage, "code is a link");
  EXPECT_EQ(testing::ReadFile(dir_ / "elsewhere" / "modeling_tiny.py"), "of others");
}

TEST_F(OutputStateTest, OverwriteRefusesToReplaceAFileOfTheSource) {
  fs::create_directories(out_);
  fs::rename(in_ / testing::kTinyShard1, out_ / testing::kTinyShard1);
  fs::create_symlink(out_ / testing::kTinyShard1, dir_ / "link");
  fs::create_symlink("../link", in_ / testing::kTinyShard1);
  ExpectRefused(Command(true), ErrorCode::kUsage,
                std::string(testing::kTinyShard1) + " is a file of the source");
}

TEST_F(OutputStateTest, FinishedOutputIsNotTouched) {
  const ConversionReport first = Command().Run();
  const std::string before = Listing();
  const ConversionReport report = Command().Run();
  EXPECT_EQ(report.outcome, Outcome::kNothingToDo);
  EXPECT_EQ(report.bytes_written, 0U);
  EXPECT_EQ(Listing(), before);
}

TEST_F(OutputStateTest, FinishedOutputLosesWhatAKilledRunLeft) {
  Command().Run();
  const auto finished = testing::ReadTree(out_);
  for (const std::string name : {".dsv3-lock", ".dsv3-journal.partial", ".dsv3-freed-00001"}) {
    testing::WriteFile(out_ / name, "1 2 left\n");
    EXPECT_EQ(Command().Run().outcome, Outcome::kNothingToDo);
    EXPECT_EQ(testing::ReadTree(out_), finished) << name;
  }
}

TEST_F(OutputStateTest, FinishedOutputIsRecognisedWithOtherThreadsAndMemory) {
  Command().Run();
  Conversion conversion = Command();
  conversion.request.run.threads = 3;
  conversion.request.run.memory_bytes = 8 << 20;
  EXPECT_EQ(conversion.Run().outcome, Outcome::kNothingToDo);
}

TEST_F(OutputStateTest, FinishedOutputOfAnotherJobIsRefusedAndReplacedWithOverwrite) {
  Command().Run();
  ExpectRefused(OtherCommand(), ErrorCode::kUsage, "finished output of another command");
  EXPECT_EQ(OtherCommand(true).Run().outcome, Outcome::kConverted);
  EXPECT_THAT(testing::ReadFile(out_ / kManifestName), HasSubstr("\"tensor_sha256\":true"));
}

TEST_F(OutputStateTest, OverwriteMakesAFinishedOutputAgain) {
  Command().Run();
  const auto before = testing::ReadTree(out_);
  const ConversionReport report = Command(true).Run();
  EXPECT_EQ(report.outcome, Outcome::kConverted);
  EXPECT_EQ(report.kept_files, 0U);
  EXPECT_EQ(testing::ReadTree(out_), before);
}

TEST_F(OutputStateTest, FinishedOutputWithADamagedShardIsToldAndNotRepaired) {
  Command().Run();
  const fs::path shard = out_ / testing::kTinyShard2;
  const std::string content = testing::ReadFile(shard);

  fs::remove(shard);
  ExpectRefused(Command(), ErrorCode::kUsage, std::string(testing::kTinyShard2) + " is missing");
  testing::WriteFile(shard, content.substr(0, content.size() - 1));
  ExpectRefused(
      Command(), ErrorCode::kUsage,
      fmt::format("{} has {}, expected {}", testing::kTinyShard2,
                  formats::ExactBytes(content.size() - 1), formats::ExactBytes(content.size())));
  std::string header = content;
  header[20] ^= 1;
  testing::WriteFile(shard, header);
  ExpectRefused(Command(), ErrorCode::kUsage,
                std::string(testing::kTinyShard2) + " has another header");
}

TEST_F(OutputStateTest, OverwriteReplacesAFileThatTheUserChanged) {
  const testing::Tree expected = Uninterrupted();
  Command().Run();
  testing::WriteFile(out_ / "config.json", "{\"mine\": \"longer than before, by a few words\"}");
  ExpectRefused(Command(), ErrorCode::kUsage, "give --overwrite to convert again");
  EXPECT_EQ(Command(true).Run().outcome, Outcome::kConverted);
  testing::ExpectSameTree(testing::ReadTree(out_), expected);
  testing::WriteFile(out_ / "README.md", "my own words, longer than before");
  EXPECT_EQ(OtherCommand(true).Run().outcome, Outcome::kConverted);
  EXPECT_EQ(testing::ReadFile(out_ / "README.md"), expected.at("README.md"));
}

TEST_F(OutputStateTest, OverwriteLeavesAChangedFileWhoseNameItDoesNotWrite) {
  testing::TinyCheckpoint older = testing::SmallFp8Checkpoint();
  older.side_files["tokenizer.model"] = "old";
  older.side_files["vocab.json"] = "{}";
  older.Write(dir_ / "older");
  Conversion(dir_ / "older", out_).Run();
  testing::WriteFile(out_ / "vocab.json", "{\"mine\": 1}");
  EXPECT_EQ(Command(true).Run().outcome, Outcome::kConverted);
  EXPECT_FALSE(fs::exists(out_ / "tokenizer.model"));
  EXPECT_EQ(testing::ReadFile(out_ / "vocab.json"), "{\"mine\": 1}");
}

TEST_F(OutputStateTest, OverwriteLeavesAChangedFileOfTheSameSizeAndSaysSo) {
  testing::TinyCheckpoint older = testing::SmallFp8Checkpoint();
  older.side_files["tokenizer.model"] = "old";
  older.side_files["vocab.json"] = "{}";
  older.Write(dir_ / "older");
  const auto later = fs::file_time_type::clock::now() + std::chrono::hours(1);
  for (const bool digests : {true, false}) {
    Conversion first(dir_ / "older", out_);
    if (!digests) first.request.run.checksum = ChecksumMode::kNone;
    first.Run();
    testing::WriteFile(out_ / "vocab.json", "[]");
    // Of both the time is later than the manifest's.
    fs::last_write_time(out_ / "vocab.json", later);
    fs::last_write_time(out_ / "tokenizer.model", later);
    const ConversionReport report = Command(true).Run();
    EXPECT_EQ(testing::ReadFile(out_ / "vocab.json"), "[]");
    // Without a digest nothing says that it was not changed.
    EXPECT_EQ(fs::exists(out_ / "tokenizer.model"), !digests);
    std::vector<std::string> changed;
    for (const formats::Finding& warning : report.warnings) {
      if (warning.kind == "changed-file") changed.push_back(warning.file);
    }
    EXPECT_EQ(changed, digests ? std::vector<std::string>{"vocab.json"}
                               : (std::vector<std::string>{"tokenizer.model", "vocab.json"}));
    fs::remove_all(out_);
  }
}

TEST_F(OutputStateTest, OverwriteReplacesShardsBesideADamagedJournal) {
  const testing::Tree expected = Uninterrupted();
  const std::string other_version = formats::DigestedLine(R"({"dsv3_journal":999,"recipe":"r"})");
  for (const std::string& journal : {std::string("torn"), std::string(), other_version}) {
    fs::remove_all(out_);
    Interrupt(Command());
    testing::WriteFile(out_ / kJournalName, journal);
    ExpectRefused(Command(), ErrorCode::kUsage, "--overwrite");
    const ConversionReport report = Command(true).Run();
    EXPECT_EQ(report.outcome, Outcome::kConverted);
    EXPECT_FALSE(report.resumed);
    testing::ExpectSameTree(testing::ReadTree(out_), expected);
  }
}

TEST_F(OutputStateTest, AFileInTheWayOfAnUnfinishedJobIsReplacedWithOverwriteAlone) {
  const testing::Tree expected = Uninterrupted();
  const std::string name = testing::kTinyShard3;
  InterruptBefore(Command(), name);
  testing::WriteFile(out_ / name, "mine");
  ExpectRefused(Command(), ErrorCode::kUsage, name + " is in the way, and no run of this command");
  const ConversionReport report = Command(true).Run();
  EXPECT_TRUE(report.resumed);
  testing::ExpectSameTree(testing::ReadTree(out_), expected);
}

TEST_F(OutputStateTest, UnfinishedJobGoesOn) {
  Interrupt(Command());
  const ConversionReport report = Command().Run();
  EXPECT_EQ(report.outcome, Outcome::kConverted);
  EXPECT_TRUE(report.resumed);
  EXPECT_GE(report.kept_files, 1U);
}

TEST_F(OutputStateTest, UnfinishedJobOfAnotherCommandIsRefusedAndReplacedWithOverwrite) {
  Interrupt(OtherCommand());
  ExpectRefused(Command(), ErrorCode::kUsage, "another conversion was begun here");
  const ConversionReport report = Command(true).Run();
  EXPECT_FALSE(report.resumed);
  EXPECT_EQ(Command().Run().outcome, Outcome::kNothingToDo);
}

TEST_F(OutputStateTest, OverwriteOfAnUnfinishedJobReplacesAFileThatTheUserChanged) {
  Interrupt(OtherCommand());
  testing::WriteFile(out_ / "README.md", "my own words, longer than before");
  EXPECT_EQ(Command(true).Run().outcome, Outcome::kConverted);
  EXPECT_EQ(testing::ReadFile(out_ / "README.md"), testing::ReadFile(in_ / "README.md"));
}

TEST_F(OutputStateTest, AnOverwriteThatWasInterruptedGoesOn) {
  Command().Run();
  const auto finished = testing::ReadTree(out_);
  fs::remove(out_ / testing::kTinyShard1);
  Interrupt(Command(true));
  EXPECT_TRUE(Command().Run().resumed);
  EXPECT_EQ(testing::ReadTree(out_), finished);
}

TEST_F(OutputStateTest, SourceThatChangedSinceIsBadInput) {
  Interrupt(Command());
  const auto times = testing::FileTimes(in_);
  const fs::path shard = in_ / testing::kTinyShard3;
  fs::last_write_time(shard, fs::last_write_time(shard) + std::chrono::nanoseconds(1000));
  ExpectRefused(Command(), ErrorCode::kBadInput,
                std::string(testing::kTinyShard3) + " was modified");

  // Longer, and with another header, whatever its time.
  testing::TinyCheckpoint longer = testing::SmallFp8Checkpoint();
  longer.Add(testing::kTinyShard3, "one_more", formats::Dtype::kU8, {8});
  longer.Write(in_);
  testing::RestoreFileTimes(in_, times);
  ExpectRefused(Command(), ErrorCode::kBadInput, std::string(testing::kTinyShard3) + " had");

  testing::TinyCheckpoint renamed = testing::SmallFp8Checkpoint();
  renamed.Find("inv_freq").name = "inv_freQ";
  renamed.Write(in_);
  testing::RestoreFileTimes(in_, times);
  ExpectRefused(Command(), ErrorCode::kBadInput,
                std::string(testing::kTinyShard3) + " has another header");

  EXPECT_EQ(Command(true).Run().outcome, Outcome::kConverted);
}

TEST_F(OutputStateTest, SideFilesOfTheSourceCountAsSource) {
  Interrupt(Command());
  testing::WriteFile(in_ / "tokenizer.json", "{\"version\": \"2.0 and longer\"}");
  ExpectRefused(Command(), ErrorCode::kBadInput, "tokenizer.json had");
  testing::SmallFp8Checkpoint().Write(in_);
  fs::remove(in_ / "tokenizer.json");
  ExpectRefused(Command(), ErrorCode::kBadInput, "the source changed since");
}

TEST_F(OutputStateTest, DryRunTouchesNothing) {
  Conversion dry = Command();
  dry.request.run.dry_run = true;
  EXPECT_EQ(dry.Run().outcome, Outcome::kPlanned);
  EXPECT_FALSE(fs::exists(out_));
  Interrupt(Command());
  const std::string before = Listing();
  const ConversionReport report = dry.Run();
  EXPECT_EQ(report.outcome, Outcome::kPlanned);
  EXPECT_TRUE(report.resumed);
  EXPECT_EQ(Listing(), before);
}

TEST_F(OutputStateTest, ASecondRunIsRefused) {
  fs::create_directory(out_);
  const OutputLock lock(out_);
  ExpectRefusedUnderLock(Command(), ErrorCode::kUsage, "another run is writing");
}

TEST_F(OutputStateTest, ErrorBeforeTheFirstWriteLeavesNoDirectory) {
  testing::TinyCheckpoint bad = testing::SmallFp8Checkpoint();
  bad.Find("a.weight_scale_inv").bytes.assign(24, '\0');
  bad.Write(in_);
  Conversion conversion(in_, dir_ / "a" / "b");
  EXPECT_EQ(testing::ErrorOf([&] { conversion.Run(); }).code(), ErrorCode::kBadInput);
  EXPECT_FALSE(fs::exists(dir_ / "a"));
}

}  // namespace
}  // namespace dsv3::convert
