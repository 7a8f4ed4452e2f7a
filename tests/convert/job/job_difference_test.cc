#include "convert/job/job_difference.h"

#include <string>

#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

JournalHead Head() {
  JournalHead head;
  head.recipe = "reshard";
  head.sources = {{"model.safetensors", 1234, 5 * kSecond, "aa"}, {"b.json", 7, 0, ""}};
  head.input = "/models/a";
  head.options = {{"format", "\"hf-rank\""}, {"tp", "2"}, {"include", "[]"}, {"flag", "false"}};
  return head;
}

TEST(JobDifferenceTest, EqualJobsHaveNone) {
  EXPECT_EQ(CompareJobs(Head(), Head()).Text(), "");
  JournalHead moved = Head();
  moved.input = "/models/b";
  EXPECT_EQ(CompareJobs(Head(), moved).Text(), "") << "the same files elsewhere";
}

TEST(JobDifferenceTest, NamesTheCommands) {
  JournalHead now = Head();
  now.recipe = "fp8-to-bf16";
  now.options.clear();
  EXPECT_EQ(CompareJobs(Head(), now).Text(),
            "the command was dsv3-reshard, and is dsv3-convert fp8-to-bf16 now");
  // Commands describe one IN by other files.
  now.sources = {{"a.safetensors", 1, 1, "cc"}};
  EXPECT_EQ(CompareJobs(Head(), now).Text(),
            "the command was dsv3-reshard, and is dsv3-convert fp8-to-bf16 now");
}

TEST(JobDifferenceTest, NamesEachOptionAsOnTheCommandLineWithBothValues) {
  JournalHead now = Head();
  now.options = {{"format", "\"hf-rank\""},    {"tp", "4"},
                 {"include", R"(["a*","b"])"}, {"flag", "true"},
                 {"side_files", "\"all\""},    {"max_shard_size", "5"}};
  EXPECT_EQ(CompareJobs(Head(), now).Text(),
            "--tp was 2, and is 4 now; --include was not given, and is 'a*' and b now; --flag was "
            "not given, and is given now; --side-files was model, and is all now; "
            "--max-shard-size was not given, and is 5 now");
}

TEST(JobDifferenceTest, OptionsOfJournalsThatDoNotRecordThemAreNotCompared) {
  JournalHead before = Head();
  before.options.clear();
  EXPECT_EQ(CompareJobs(before, Head()).Text(), "");
}

TEST(JobDifferenceTest, DigestsOfFilesOfOptionsAreExplained) {
  JournalHead now = Head();
  now.options.emplace_back("keys_xxh3_128", "\"ab\"");
  now.options.emplace_back("expert_location_xxh3_128", "\"ab\"");
  EXPECT_EQ(CompareJobs(Head(), now).Text(),
            "the FILE of --format keys:FILE says something else now; the experts are placed "
            "differently now (--ep-placement, --expert-load)");
}

TEST(JobDifferenceTest, SaysHowAFileDiffers) {
  JournalHead now = Head();
  now.input = "/models/b";
  now.sources[0].bytes = 999;
  EXPECT_EQ(CompareJobs(Head(), now).Text(),
            "IN was /models/a, and is /models/b now; model.safetensors had 1.2 kB (1,234 bytes), "
            "and has 999 bytes now");
  now = Head();
  now.sources[0].header_digest = "bb";
  EXPECT_EQ(CompareJobs(Head(), now).Text(),
            "model.safetensors has another header (its XXH3-128 was aa, and is bb now)");
  EXPECT_FALSE(CompareJobs(Head(), now).only_times);
  now = Head();
  now.sources[0].mtime_ns = 65 * kSecond;
  EXPECT_EQ(CompareJobs(Head(), now).Text(),
            "model.safetensors was modified (its time was 1970-01-01 00:00:05, and is 1970-01-01 "
            "00:01:05 UTC now)");
  EXPECT_TRUE(CompareJobs(Head(), now).only_times);
  now.sources[0].mtime_ns = 5 * kSecond + 7;
  EXPECT_EQ(CompareJobs(Head(), now).files,
            "model.safetensors was modified (its time was 1970-01-01 00:00:05.000000000, and is "
            "1970-01-01 00:00:05.000000007 UTC now)");
}

TEST(JobDifferenceTest, NamesFilesThatAreGoneOrNewAndCountsTheOthers) {
  JournalHead now = Head();
  now.sources[1] = {"c.json", 7, 0, ""};
  now.sources.push_back({"model.safetensors", 9, 9, "cc", "scales-from"});
  EXPECT_EQ(CompareJobs(Head(), now).files, "b.json is gone, and 2 more files differ");
  EXPECT_EQ(CompareJobs(now, Head()).files, "c.json is gone, and 2 more files differ");
  now = Head();
  now.sources.push_back({"model.safetensors", 9, 9, "cc", "scales-from"});
  EXPECT_EQ(CompareJobs(Head(), now).files, "model.safetensors of --scales-from is new");
}

TEST(JobDifferenceTest, AnotherCheckpointIsNotCalledGone) {
  JournalHead now = Head();
  now.sources = {{"a.safetensors", 1, 1, "cc"}, {"b.safetensors", 1, 1, "cc"}};
  EXPECT_EQ(CompareJobs(Head(), now).files,
            "IN had model.safetensors, and has a.safetensors and 1 more weight file now");
}

TEST(JobDifferenceTest, AManifestIsComparedWithoutTimes) {
  formats::ManifestJob job;
  job.recipe = "reshard";
  job.options = {{"tp", "2"}};
  job.source_files = {{"", "model.safetensors", 5, "aa"}};
  formats::ManifestJob other = job;
  EXPECT_EQ(CompareJobs(HeadOf(job), HeadOf(other)).Text(), "");
  other.options[0].second = "4";
  other.source_files[0].bytes = 6;
  EXPECT_EQ(CompareJobs(HeadOf(job), HeadOf(other)).Text(),
            "model.safetensors had 5 bytes, and has 6 bytes now; --tp was 2, and is 4 now");
}

}  // namespace
}  // namespace dsv3::convert
