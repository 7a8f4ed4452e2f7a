#include "convert/open/unfinished.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "formats/job_journal.h"
#include "tests/convert/support/part_test.h"
#include "tests/convert/verify/structure_test.h"
#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using testing::ErrorOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Lines;
using ::testing::SizeIs;
using testing::WriteFile;

class UnfinishedTest : public testing::PartTest {};

TEST_F(UnfinishedTest, AnInterruptedConversionSaysHowFarItCameAndHowItGoesOn) {
  InterruptAfter(Whole(), testing::kTinyShard1);
  const formats::Findings findings = FindUnfinished(out_);
  ASSERT_THAT(Lines(findings), ElementsAre("unfinished-conversion .dsv3-journal "));
  const auto progress = formats::ReadJobProgress(out_);
  EXPECT_GT(progress->completed, 0U);
  EXPECT_LT(progress->completed, progress->files);
  EXPECT_EQ(progress->files, static_cast<std::uint64_t>(std::count_if(
                                 expected_.begin(), expected_.end(),
                                 [](const auto& file) { return !file.first.ends_with('/'); })));
  EXPECT_THAT(findings[0].message, AllOf(HasSubstr(std::to_string(progress->completed) + " of " +
                                                   std::to_string(progress->files) + " files"),
                                         EndsWith("dsv3-convert fp8-to-bf16 IN " + out_.string())));
  EXPECT_TRUE(HasUnfinishedConversion(findings));
  const Error error = ErrorOf([&] { RefuseUnfinishedConversion(out_); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.message(), findings[0].message);
  Whole().Run();
  EXPECT_THAT(FindUnfinished(out_), IsEmpty());
}

TEST_F(UnfinishedTest, TheCommandThatContinuesIsTheRecordedOne) {
  testing::Conversion whole = Whole();
  whole.request.run.command = "dsv3-convert fp8-to-bf16 --threads 3 '/a b'";
  InterruptAfter(whole, testing::kTinyShard1);
  EXPECT_THAT(
      FindUnfinished(out_).at(0).message,
      EndsWith("continue it with: dsv3-convert fp8-to-bf16 --threads 3 '/a b' " + out_.string()));
}

TEST_F(UnfinishedTest, PartsNameTheOptionsThatContinue) {
  Part(1, 3).Run();
  const formats::Findings findings = FindUnfinished(out_);
  ASSERT_THAT(Lines(findings), ElementsAre("unfinished-conversion .dsv3-journal-part-1-of-3 "));
  EXPECT_THAT(findings[0].message, AllOf(HasSubstr("--part I/3"), HasSubstr("--finish")));
}

TEST_F(UnfinishedTest, AJournalBesideAWholeOutputIsAWarning) {
  Whole().Run();
  WriteFile(out_ / ".dsv3-journal",
            formats::DigestedLine(R"({"recipe":"merge","outputs":["checkpoint.manifest.json"]})"));
  EXPECT_THAT(Lines(FindUnfinished(out_)),
              ElementsAre("warning unfinished-conversion .dsv3-journal "));
  EXPECT_NO_THROW(RefuseUnfinishedConversion(out_));
}

TEST_F(UnfinishedTest, FilesOfAConversionWithoutAJournalAreErrorsWhereNothingSaysThatAllIsThere) {
  WriteFile(out_ / ".dsv3-lock", "");
  WriteFile(out_ / "sub/x.partial", "");
  EXPECT_THAT(Lines(FindUnfinished(out_)),
              ElementsAre("unfinished-conversion .dsv3-lock ",
                          "warning unfinished-conversion sub/x.partial "));
  WriteFile(out_ / "model.safetensors.index.json", "{}");
  EXPECT_FALSE(HasUnfinishedConversion(FindUnfinished(out_)));
}

TEST_F(UnfinishedTest, WhatChecksumsAndSignaturesLeaveIsNoFinding) {
  for (const char* name : {"SHA256SUMS", "checkpoint.manifest.json", "model.sig"}) {
    WriteFile(out_ / (std::string(name) + ".partial"), "");
  }
  EXPECT_THAT(FindUnfinished(out_), IsEmpty());
}

TEST_F(UnfinishedTest, FindsTheMarksOfDownloaders) {
  for (const char* name :
       {"a.safetensors.aria2", "b.safetensors.part", "c.crdownload", "sub/d.incomplete",
        "._____temp/e.safetensors", ".cache/huggingface/download/sub/f.incomplete"}) {
    WriteFile(out_ / name, "12");
  }
  // What is no mark.
  fs::create_directories(out_ / "sub/._____temp");
  for (const char* name : {"part", "x.parts", ".git/y.part", ".cache/other/z.part",
                           ".cache/huggingface/download/f.lock"}) {
    WriteFile(out_ / name, "");
  }
  const formats::Findings findings = FindUnfinished(out_);
  EXPECT_THAT(
      Lines(findings),
      ElementsAre("warning unfinished-download ._____temp/e.safetensors ",
                  "warning unfinished-download .cache/huggingface/download/sub/f.incomplete ",
                  "warning unfinished-download a.safetensors.aria2 ",
                  "warning unfinished-download b.safetensors.part ",
                  "warning unfinished-download c.crdownload ",
                  "warning unfinished-download sub/d.incomplete "));
  EXPECT_THAT(findings[0].message, AllOf(HasSubstr("modelscope"), HasSubstr("2 bytes")));
  EXPECT_THAT(findings[1].message, HasSubstr("hf download"));
  EXPECT_NO_THROW(RefuseUnfinishedConversion(out_));
}

TEST_F(UnfinishedTest, FindsTheMarksInTheBlobsOfAHubCache) {
  const fs::path snapshot = dir_ / "models--o--n/snapshots/c0";
  fs::create_directories(snapshot);
  WriteFile(dir_ / "models--o--n/blobs/e0.incomplete", "x");
  WriteFile(dir_ / "models--o--n/blobs/e1", "x");
  EXPECT_THAT(Lines(FindUnfinished(snapshot)),
              ElementsAre("warning unfinished-download ../../blobs/e0.incomplete "));
  fs::create_directory_symlink(snapshot, dir_ / "link");
  EXPECT_THAT(FindUnfinished(dir_ / "link"), SizeIs(1));
}

TEST_F(UnfinishedTest, WhatIsNoDirectoryIsNotRefused) {
  WriteFile(out_ / "file", "");
  EXPECT_NO_THROW(RefuseUnfinishedConversion(out_ / "file"));
  EXPECT_NO_THROW(RefuseUnfinishedConversion(out_ / "none"));
}

}  // namespace
}  // namespace dsv3::convert
