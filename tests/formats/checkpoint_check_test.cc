#include <filesystem>
#include <string>

#include <sys/stat.h>

#include "tests/formats/checkpoint_test.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;
using dsv3::testing::CheckpointFilesTest;
using dsv3::testing::ErrorOf;
using dsv3::testing::ExpectBadInput;
using dsv3::testing::Names;
using dsv3::testing::Shard;
using dsv3::testing::WriteFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(CheckpointFilesTest, AMissingShardIsFound) {
  WriteSound();
  fs::remove(directory_ / "y.safetensors");
  const CheckpointFiles files = Open();
  const Finding finding = OnlyFinding(files, "missing-shard", "y.safetensors");
  EXPECT_EQ(finding.severity, Severity::kError);
  EXPECT_TRUE(finding.unreadable);
  EXPECT_THAT(finding.message, HasSubstr("there is no such file; download the file again"));
  EXPECT_THAT(Names(files), ElementsAre("x.safetensors", "y.safetensors"));
  ExpectBadInput([&] { RequireConsistent(files); }, "y.safetensors: the index lists this shard");
}

TEST_F(CheckpointFilesTest, ATensorThatIsNotInItsShardIsFound) {
  WriteSound();
  WriteIndex({{"a", "x.safetensors"},
              {"b", "x.safetensors"},
              {"c", "y.safetensors"},
              {"d", "y.safetensors"}});
  const CheckpointFiles files = Open();
  EXPECT_THAT(OnlyFinding(files, "tensor-not-in-shard", "y.safetensors", "d").message,
              HasSubstr("the index says that tensor 'd' is in this shard, but it is in none"));
  EXPECT_FALSE(files.findings[0].unreadable);
  EXPECT_EQ(ErrorOf([&] { RequireConsistent(files); }).place().tensor, "d");
}

TEST_F(CheckpointFilesTest, ATensorInAnotherShardThanListedIsFoundOnce) {
  WriteSound();
  WriteIndex({{"a", "x.safetensors"}, {"b", "y.safetensors"}, {"c", "y.safetensors"}});
  EXPECT_THAT(OnlyFinding(Open(), "tensor-not-in-shard", "y.safetensors", "b").message,
              HasSubstr("but it is in x.safetensors"));
}

TEST_F(CheckpointFilesTest, ATensorThatTheIndexDoesNotListIsFound) {
  WriteSound();
  WriteIndex({{"a", "x.safetensors"}, {"c", "y.safetensors"}});
  const Finding finding = OnlyFinding(Open(), "tensor-not-in-index", "x.safetensors", "b");
  EXPECT_EQ(finding.severity, Severity::kError);
  EXPECT_THAT(finding.message, HasSubstr("the index does not list it"));
}

TEST_F(CheckpointFilesTest, ATensorInTwoShardsIsFound) {
  WriteSound();
  WriteIndex({{"a", "x.safetensors"}, {"b", "x.safetensors"}, {"c", "y.safetensors"}});
  Write("y.safetensors", Shard({"a", "c"}));
  EXPECT_THAT(OnlyFinding(Open(), "tensor-in-two-shards", "y.safetensors", "a").message,
              HasSubstr("is in this shard and in x.safetensors"));
  fs::remove(directory_ / std::string(kShardIndexName));
  const CheckpointFiles unindexed = Open();
  ASSERT_EQ(unindexed.findings.size(), 2U);
  EXPECT_EQ(unindexed.findings[0].kind, "no-index");
  EXPECT_EQ(unindexed.findings[1].kind, "tensor-in-two-shards");
}

TEST_F(CheckpointFilesTest, AWrongTotalSizeIsAWarning) {
  WriteSound();
  WriteIndex({{"a", "x.safetensors"}, {"b", "x.safetensors"}, {"c", "y.safetensors"}}, "13");
  const CheckpointFiles files = Open();
  const Finding finding = OnlyFinding(files, "wrong-total-size", std::string(kShardIndexName));
  EXPECT_EQ(finding.severity, Severity::kWarning);
  EXPECT_THAT(finding.message, HasSubstr("says 13 bytes, the tensors have 12"));
  RequireConsistent(files);
}

TEST_F(CheckpointFilesTest, AnIndexThatCannotBeReadIsAnError) {
  Write("x.safetensors", Shard({"a"}));
  const fs::path index = directory_ / std::string(kShardIndexName);
  WriteFile(index, R"({"weight_map":{}})");
  ExpectBadInput([&] { Open(); }, "weight_map is empty");
  WriteFile(index, R"({"weight_map":{"a":"../x.safetensors"}})");
  ExpectBadInput([&] { Open(); }, "leads out of the directory");
  fs::remove(index);
  fs::create_directory(index);
  ExpectBadInput([&] { Open(); }, "directory");
  fs::remove(index);
  ASSERT_EQ(mkfifo(index.c_str(), 0600), 0);
  ExpectBadInput([&] { Open(); }, "FIFO");
  fs::remove(index);
  fs::create_symlink("nowhere", index);
  ExpectBadInput([&] { Open(); }, "a dead link, a symlink to nowhere");
}

TEST_F(CheckpointFilesTest, ATensorInTwoShardsNeitherOfThemListedIsFound) {
  Write("x.safetensors", Shard({"a", "b"}));
  Write("y.safetensors", Shard({"a", "b", "c"}));
  WriteIndex({{"b", "x.safetensors"}, {"c", "y.safetensors"}});
  const CheckpointFiles files = Open();
  ASSERT_EQ(files.findings.size(), 3U);
  EXPECT_EQ(files.findings[0].kind, "tensor-not-in-index");
  EXPECT_EQ(files.findings[0].file, "x.safetensors");
  EXPECT_EQ(files.findings[1].kind, "tensor-in-two-shards");
  EXPECT_EQ(files.findings[1].tensor, "a");
  EXPECT_EQ(files.findings[2].kind, "tensor-in-two-shards");
  EXPECT_EQ(files.findings[2].tensor, "b");
}

class FaultyIndexTest : public CheckpointFilesTest {
 protected:
  CheckpointFiles OpenFaulty() const {
    return OpenCheckpointFiles(directory_.path(), {}, FaultyIndex::kReport);
  }
  void WriteIndexText(std::string_view text) { Write(std::string(kShardIndexName), text); }
};

TEST_F(FaultyIndexTest, IsAFindingAndTheShardsAreReadWithoutIt) {
  WriteSound();
  Write("y.safetensors", Shard({"b", "c"}));
  for (const std::string text :
       {"", "{", "[]", "{}", "{\"weight_map\":[]}", "<!doctype html>",
        "version https://git-lfs.github.com/spec/v1\n", "{\"weight_map\":{\"a\":1}}"}) {
    SCOPED_TRACE(text);
    WriteIndexText(text);
    const CheckpointFiles files = OpenFaulty();
    EXPECT_FALSE(files.index.has_value());
    EXPECT_EQ(files.form, CheckpointFiles::Form::kUnindexed);
    EXPECT_THAT(Names(files), ElementsAre("x.safetensors", "y.safetensors"));
    ASSERT_EQ(files.findings.size(), 2U);
    EXPECT_EQ(files.findings[0].file, kShardIndexName);
    EXPECT_EQ(files.findings[1].kind, "tensor-in-two-shards");
    EXPECT_EQ(ErrorOf([&] { Open(); }).code(), ErrorCode::kBadInput);
  }
}

TEST_F(FaultyIndexTest, IsAnErrorWhereNothingElseIsThere) {
  WriteIndexText("{");
  ExpectBadInput([&] { OpenFaulty(); }, "the index is not valid JSON");
  WriteIndexText(R"({"weight_map":{"a":"../x.safetensors"}})");
  ExpectBadInput([&] { OpenFaulty(); }, "leads out of the directory");
}

TEST_F(FaultyIndexTest, IsAnErrorWhereItsWeightMapIsEmpty) {
  WriteSound();
  WriteIndexText(R"({"weight_map":{}})");
  ExpectBadInput([&] { OpenFaulty(); }, "weight_map is empty");
}

TEST_F(FaultyIndexTest, WhatItDoesListIsUsed) {
  WriteSound();
  WriteIndexText(R"({"weight_map":{"a":"x.safetensors","b":"x.safetensors","c":"y.safetensors",
                                   "d":"../x.safetensors","c":"y.safetensors","e":null}})");
  const CheckpointFiles files = OpenFaulty();
  EXPECT_EQ(files.form, CheckpointFiles::Form::kIndexed);
  EXPECT_THAT(Names(files), ElementsAre("x.safetensors", "y.safetensors"));
  ASSERT_EQ(files.findings.size(), 3U);
  EXPECT_EQ(files.findings[0].kind, "unsafe-shard-path");
  EXPECT_EQ(files.findings[1].kind, "malformed-index-entry");
  EXPECT_EQ(files.findings[2].kind, "tensor-listed-twice");
}

TEST_F(FaultyIndexTest, DoesNotKeepAFileBesideItFromBeingOpened) {
  WriteSound();
  Write("alone.safetensors", Shard({"z"}));
  WriteIndexText("{");
  const CheckpointFiles files =
      OpenCheckpointFiles(directory_ / "alone.safetensors", {}, FaultyIndex::kReport);
  EXPECT_THAT(Names(files), ElementsAre("alone.safetensors"));
  OnlyFinding(files, "unreadable-index", kShardIndexName);
}

}  // namespace
}  // namespace dsv3::formats
