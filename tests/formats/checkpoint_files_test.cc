#include "formats/checkpoint_files.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/formats/expect_error.h"
#include "tests/formats/safetensors_text.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;
using dsv3::testing::Entry;
using dsv3::testing::ErrorOf;
using dsv3::testing::ExpectBadInput;
using dsv3::testing::SafetensorsFile;
using dsv3::testing::TempDir;
using dsv3::testing::WriteFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A shard of U8 [4] tensors, its header padded as the format wants it.
std::string Shard(const std::vector<std::string>& names) {
  std::string json = "{";
  for (std::size_t i = 0; i < names.size(); ++i) {
    json += (i == 0 ? "" : ",") + Entry(names[i], "U8", "[4]", 4 * i, 4 * i + 4);
  }
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  return SafetensorsFile(json, 4 * names.size());
}

std::string Index(const std::vector<std::pair<std::string, std::string>>& map,
                  std::string_view total_size = "") {
  std::string json = "{\"metadata\":{";
  if (!total_size.empty()) json += "\"total_size\":" + std::string(total_size);
  json += "},\"weight_map\":{";
  for (std::size_t i = 0; i < map.size(); ++i) {
    json += (i == 0 ? "\"" : ",\"") + map[i].first + "\":\"" + map[i].second + "\"";
  }
  return json + "}}";
}

class CheckpointFilesTest : public ::testing::Test {
 protected:
  void Write(const std::string& name, std::string_view content) {
    WriteFile(directory_ / name, content);
  }
  void WriteIndex(const std::vector<std::pair<std::string, std::string>>& map,
                  std::string_view total_size = "") {
    Write(std::string(kShardIndexName), Index(map, total_size));
  }
  // Two shards, their index and a config.
  void WriteSound() {
    Write("x.safetensors", Shard({"a", "b"}));
    Write("y.safetensors", Shard({"c"}));
    WriteIndex({{"a", "x.safetensors"}, {"b", "x.safetensors"}, {"c", "y.safetensors"}}, "12");
    Write("config.json", "{}");
  }
  CheckpointFiles Open() const { return OpenCheckpointFiles(directory_.path()); }

  // The only finding; checks its place and words.
  Finding OnlyFinding(const CheckpointFiles& files, std::string_view kind, std::string_view file,
                      std::string_view tensor = "") {
    EXPECT_EQ(files.findings.size(), 1U);
    for (const Finding& finding : files.findings) {
      EXPECT_EQ(finding.kind, kind) << finding.message;
    }
    if (files.findings.empty()) return {};
    const Finding& finding = files.findings[0];
    EXPECT_EQ(finding.file, file);
    EXPECT_EQ(finding.tensor, tensor);
    return finding;
  }

  TempDir directory_;
};

std::vector<std::string> Names(const CheckpointFiles& files) {
  std::vector<std::string> names;
  for (const ShardFile& shard : files.shards) names.push_back(shard.name);
  return names;
}

TEST_F(CheckpointFilesTest, OpensAnIndexedCheckpoint) {
  WriteSound();
  const CheckpointFiles files = Open();
  EXPECT_EQ(files.form, CheckpointFiles::Form::kIndexed);
  EXPECT_EQ(files.directory, directory_.path());
  EXPECT_THAT(files.findings, IsEmpty());
  EXPECT_THAT(Names(files), ElementsAre("x.safetensors", "y.safetensors"));
  EXPECT_EQ(files.shards[0].header.tensors.size(), 2U);
  EXPECT_EQ(files.shards[0].bytes, fs::file_size(directory_ / "x.safetensors"));
  EXPECT_GT(files.shards[0].mtime_ns, 0);
  ASSERT_TRUE(files.index.has_value());
  EXPECT_THAT(files.side_files, ElementsAre("config.json"));
  EXPECT_TRUE(files.HasConfig());
  RequireConsistent(files);
}

TEST_F(CheckpointFilesTest, ShardNamesComeFromTheIndexAlone) {
  Write("weights/part one.st", Shard({"a"}));
  WriteIndex({{"a", "weights/part one.st"}});
  const CheckpointFiles files = Open();
  EXPECT_THAT(Names(files), ElementsAre("weights/part one.st"));
  EXPECT_THAT(files.findings, IsEmpty());
  EXPECT_THAT(files.side_files, IsEmpty());
  EXPECT_FALSE(files.HasConfig());
}

TEST_F(CheckpointFilesTest, OpensASingleFileByDirectoryAndByName) {
  Write("model.safetensors", Shard({"a"}));
  Write("config.json", "{}");
  Write("sub/other.txt", "");
  const CheckpointFiles by_directory = Open();
  EXPECT_EQ(by_directory.form, CheckpointFiles::Form::kSingle);
  EXPECT_THAT(by_directory.side_files, ElementsAre("config.json", "sub/other.txt"));
  Write("unrelated.safetensors", "junk");
  const CheckpointFiles by_name = OpenCheckpointFiles(directory_ / "model.safetensors");
  EXPECT_EQ(by_name.form, CheckpointFiles::Form::kSingle);
  EXPECT_EQ(by_name.directory, directory_.path());
  EXPECT_THAT(Names(by_name), ElementsAre("model.safetensors"));
  EXPECT_THAT(by_name.side_files, ElementsAre("config.json"));
  EXPECT_THAT(by_name.findings, IsEmpty());
}

TEST_F(CheckpointFilesTest, OpensShardsWithoutAnIndexWithAWarning) {
  Write("x.safetensors", Shard({"a"}));
  Write("y.safetensors", Shard({"b"}));
  const CheckpointFiles files = Open();
  EXPECT_EQ(files.form, CheckpointFiles::Form::kUnindexed);
  EXPECT_FALSE(files.index.has_value());
  EXPECT_EQ(OnlyFinding(files, "no-index", "").severity, Severity::kWarning);
  EXPECT_THAT(files.findings[0].message, HasSubstr("all 2 *.safetensors files"));
  RequireConsistent(files);
}

TEST_F(CheckpointFilesTest, ListsSideFilesAndLeavesOutWhatIsNotOne) {
  WriteSound();
  for (const std::string name :
       {"README.md", "tokenizer.json", "code/modeling.py", ".gitattributes", ".git/config",
        ".cache/huggingface/x", "code/.cache/y", "SHA256SUMS", "checkpoint.manifest.json",
        "model.sig", ".dsv3-journal", "z.safetensors.partial", ".hidden"}) {
    Write(name, "x");
  }
  fs::create_symlink(directory_ / "README.md", directory_ / "LINK.md");
  fs::create_directory_symlink(directory_ / "code", directory_ / "linked");
  ASSERT_EQ(mkfifo((directory_ / "fifo").c_str(), 0600), 0);
  const CheckpointFiles files = Open();
  EXPECT_THAT(files.side_files, ElementsAre(".hidden", "LINK.md", "README.md", "code/modeling.py",
                                            "config.json", "tokenizer.json"));
  EXPECT_THAT(files.findings, IsEmpty());
}

TEST_F(CheckpointFilesTest, NamesFilesOutsideTheIndex) {
  WriteSound();
  Write("old.safetensors", "junk");
  Write("original/deep.safetensors", Shard({"a"}));
  const CheckpointFiles files = Open();
  ASSERT_EQ(files.findings.size(), 2U);
  EXPECT_EQ(files.findings[0].file, "old.safetensors");
  EXPECT_EQ(files.findings[1].file, "original/deep.safetensors");
  for (const Finding& finding : files.findings) {
    EXPECT_EQ(finding.kind, "unlisted-shard");
    EXPECT_EQ(finding.severity, Severity::kWarning);
    EXPECT_FALSE(finding.unreadable);
  }
  RequireConsistent(files);
}

TEST_F(CheckpointFilesTest, DeadLinksAmongSideFilesAreAWarning) {
  WriteSound();
  fs::create_symlink("nowhere", directory_ / "LICENSE");
  EXPECT_EQ(OnlyFinding(Open(), "dead-link", "LICENSE").severity, Severity::kWarning);
}

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

TEST_F(CheckpointFilesTest, ADeadLinkInPlaceOfAShardIsFound) {
  WriteSound();
  fs::remove(directory_ / "y.safetensors");
  fs::create_symlink("../blobs/123", directory_ / "y.safetensors");
  const Finding finding = OnlyFinding(Open(), "missing-shard", "y.safetensors");
  EXPECT_THAT(finding.message, HasSubstr("a symlink to ../blobs/123, which does not exist"));
}

TEST_F(CheckpointFilesTest, WhatStandsInPlaceOfAShardIsFoundWithoutBlocking) {
  const std::vector<std::pair<std::string, std::string>> words = {
      {"fifo", "FIFO"},       {"directory", "directory"}, {"loop", "circle"},
      {"empty", "is empty"},  {"lfs", "git-lfs pointer"}, {"html", "HTML page"},
      {"short", "truncated"}, {"long", "too many"},       {"noise", "not a safetensors file"}};
  std::vector<std::pair<std::string, std::string>> map;
  for (const auto& [name, word] : words) map.emplace_back("t." + name, name + ".safetensors");
  WriteIndex(map);
  const std::string sound = Shard({"a"});
  ASSERT_EQ(mkfifo((directory_ / "fifo.safetensors").c_str(), 0600), 0);
  fs::create_directory(directory_ / "directory.safetensors");
  fs::create_symlink("loop.safetensors", directory_ / "loop.safetensors");
  Write("empty.safetensors", "");
  Write("lfs.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n");
  Write("html.safetensors", "<!DOCTYPE html>\n<html></html>");
  Write("short.safetensors", sound.substr(0, sound.size() - 1));
  Write("long.safetensors", sound + "x");
  Write("noise.safetensors", std::string(64, '\xA5'));
  const CheckpointFiles files = Open();
  ASSERT_EQ(files.findings.size(), words.size());
  for (const auto& [name, word] : words) {
    const std::string file = name + ".safetensors";
    const auto finding = std::find_if(files.findings.begin(), files.findings.end(),
                                      [&](const Finding& f) { return f.file == file; });
    ASSERT_NE(finding, files.findings.end()) << file;
    EXPECT_EQ(finding->kind, "unreadable-shard");
    EXPECT_TRUE(finding->unreadable);
    EXPECT_THAT(finding->message, HasSubstr(word));
    EXPECT_THAT(finding->message, HasSubstr(file + ": "));
  }
  ExpectBadInput([&] { RequireConsistent(files); },
                 "directory.safetensors: ", "(8 more problems were found");
}

TEST_F(CheckpointFilesTest, AMissingPermissionIsAnIoError) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  WriteSound();
  fs::permissions(directory_ / "y.safetensors", fs::perms::none);
  const CheckpointFiles files = Open();
  OnlyFinding(files, "shard-io-error", "y.safetensors");
  EXPECT_EQ(ErrorOf([&] { RequireConsistent(files); }).code(), ErrorCode::kIo);
}

TEST_F(CheckpointFilesTest, AnIoFindingIsThrownAsSuch) {
  CheckpointFiles files;
  files.findings.push_back({.severity = Severity::kError,
                            .kind = "shard-io-error",
                            .file = "f",
                            .tensor = {},
                            .message = "cannot read f",
                            .unreadable = true});
  EXPECT_EQ(ErrorOf([&] { RequireConsistent(files); }).code(), ErrorCode::kIo);
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

TEST_F(CheckpointFilesTest, NonconformitiesOfHeadersAreAmongTheFindings) {
  Write("model.safetensors", SafetensorsFile("{\"a\":[\"U8\",[4],[0,4]]}  ", 4));
  OnlyFinding(Open(), "array-form-entry", "model.safetensors", "a");
}

TEST_F(CheckpointFilesTest, AShardGivenByNameIsRefusedAndItsDirectoryNamed) {
  WriteSound();
  const Error error = ErrorOf([&] { OpenCheckpointFiles(directory_ / "x.safetensors"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr(directory_.path().string() + "; give that directory"));
  Write("alone.safetensors", Shard({"z"}));
  EXPECT_THAT(Names(OpenCheckpointFiles(directory_ / "alone.safetensors")),
              ElementsAre("alone.safetensors"));
  EXPECT_EQ(ErrorOf([&] { OpenCheckpointFiles(directory_ / std::string(kShardIndexName)); }).code(),
            ErrorCode::kUsage);
}

TEST_F(CheckpointFilesTest, APathThatIsNoCheckpointIsAnError) {
  ExpectBadInput([&] { OpenCheckpointFiles(directory_ / "absent"); }, "there is no such file");
  ExpectBadInput([&] { Open(); }, "this directory holds no checkpoint");
  Write("pytorch_model.bin", "x");
  ExpectBadInput([&] { Open(); }, "PyTorch files, convert them to safetensors first");
  fs::create_symlink("loop", directory_ / "loop");
  ExpectBadInput([&] { OpenCheckpointFiles(directory_ / "loop"); }, "form a loop");
  fs::create_symlink("nowhere", directory_ / "dead");
  ExpectBadInput([&] { OpenCheckpointFiles(directory_ / "dead"); }, "a symlink whose target");
  ASSERT_EQ(mkfifo((directory_ / "fifo").c_str(), 0600), 0);
  ExpectBadInput([&] { OpenCheckpointFiles(directory_ / "fifo"); }, "neither a regular file");
}

TEST_F(CheckpointFilesTest, AnIndexThatCannotBeReadIsAnError) {
  Write("x.safetensors", Shard({"a"}));
  const fs::path index = directory_ / std::string(kShardIndexName);
  WriteFile(index, R"({"weight_map":{}})");
  ExpectBadInput([&] { Open(); }, "weight_map is empty");
  WriteFile(index, R"({"weight_map":{"a":"../x.safetensors"}})");
  ExpectBadInput([&] { Open(); }, "leads out of the checkpoint's directory");
  fs::remove(index);
  fs::create_directory(index);
  ExpectBadInput([&] { Open(); }, "directory");
  fs::remove(index);
  ASSERT_EQ(mkfifo(index.c_str(), 0600), 0);
  ExpectBadInput([&] { Open(); }, "FIFO");
  fs::remove(index);
  fs::create_symlink("nowhere", index);
  ExpectBadInput([&] { Open(); }, "no such file");
}

class HubCacheTest : public CheckpointFilesTest {
 protected:
  // A model as huggingface_hub stores it: blobs, and snapshots of symlinks to them.
  void WriteCache(const std::string& commit) {
    const fs::path snapshot = cache_ / "snapshots" / commit;
    WriteFile(cache_ / "blobs/1111", Shard({"a"}));
    WriteFile(cache_ / "blobs/2222", Index({{"a", "model-1.safetensors"}}, "4"));
    WriteFile(cache_ / "blobs/3333", "{}");
    fs::create_directories(snapshot);
    fs::create_symlink("../../blobs/1111", snapshot / "model-1.safetensors");
    fs::create_symlink("../../blobs/2222", snapshot / std::string(kShardIndexName));
    fs::create_symlink("../../blobs/3333", snapshot / "config.json");
  }

  const fs::path cache_ = directory_ / "models--deepseek-ai--DeepSeek-V3";
};

TEST_F(HubCacheTest, ResolvesRefsMain) {
  WriteCache("abc123");
  WriteCache("def456");
  WriteFile(cache_ / "refs/main", "def456\n");
  for (const fs::path& path : {cache_, cache_ / "", cache_ / "snapshots/def456"}) {
    const CheckpointFiles files = OpenCheckpointFiles(path);
    EXPECT_EQ(files.directory, cache_ / "snapshots/def456");
    EXPECT_THAT(Names(files), ElementsAre("model-1.safetensors"));
    EXPECT_THAT(files.side_files, ElementsAre("config.json"));
    EXPECT_THAT(files.findings, IsEmpty());
  }
}

TEST_F(HubCacheTest, TakesTheOnlySnapshotWithoutRefs) {
  WriteCache("abc123");
  EXPECT_EQ(OpenCheckpointFiles(cache_).directory, cache_ / "snapshots/abc123");
  WriteCache("def456");
  ExpectBadInput([&] { OpenCheckpointFiles(cache_); }, "holds 2 snapshots");
}

TEST_F(HubCacheTest, ARefMayNotLeaveTheCache) {
  WriteCache("abc123");
  for (const std::string ref : {"../..", "..", "", "a/b", "/etc"}) {
    WriteFile(cache_ / "refs/main", ref);
    ExpectBadInput([&] { OpenCheckpointFiles(cache_); }, "does not name a snapshot");
  }
  WriteFile(cache_ / "refs/main", "absent");
  ExpectBadInput([&] { OpenCheckpointFiles(cache_); }, "'absent', which is not in the cache");
  fs::remove_all(cache_ / "refs");
  fs::remove_all(cache_ / "snapshots/abc123");
  ExpectBadInput([&] { OpenCheckpointFiles(cache_); }, "holds no snapshot");
}

TEST(ReadSmallFileTest, ReadsUpToTheLimit) {
  const TempDir directory;
  WriteFile(directory / "f", "12345");
  EXPECT_EQ(ReadSmallFile(directory / "f", 5), "12345");
  ExpectBadInput([&] { ReadSmallFile(directory / "f", 4); }, "has 5 bytes, at most 4 are expected");
  ExpectBadInput([&] { ReadSmallFile(directory / "absent", 4); }, "no such file");
  ExpectBadInput([&] { ReadSmallFile(directory.path(), 4); }, "directory");
}

}  // namespace
}  // namespace dsv3::formats
