#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

#include "formats/checkpoint_location.h"
#include "tests/formats/checkpoint_test.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;
using dsv3::testing::CheckpointFilesTest;
using dsv3::testing::ErrorOf;
using dsv3::testing::ExpectBadInput;
using dsv3::testing::Names;
using dsv3::testing::SafetensorsFile;
using dsv3::testing::Shard;
using dsv3::testing::TempDir;
using dsv3::testing::WriteFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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

TEST_F(CheckpointFilesTest, KeepsTheHeadersOfFilesOutsideTheIndex) {
  WriteSound();
  Write("a.safetensors", "junk");
  Write("x2.safetensors", Shard({"e", "f"}));
  Write("z.safetensors", Shard({"g"}));
  const CheckpointFiles files = Open();
  ASSERT_EQ(files.unlisted.size(), 3U);
  EXPECT_EQ(files.unlisted[0].name, "a.safetensors");
  EXPECT_EQ(files.unlisted[0].header.file_bytes, 0U);
  EXPECT_EQ(files.unlisted[1].name, "x2.safetensors");
  EXPECT_EQ(files.unlisted[1].header.tensors.size(), 2U);
  EXPECT_EQ(files.unlisted[2].name, "z.safetensors");
  EXPECT_THAT(Names(files), ElementsAre("x.safetensors", "y.safetensors"));
}

TEST_F(CheckpointFilesTest, ListsWhatAnUnfinishedRunLeft) {
  WriteSound();
  for (const std::string name : {"z.safetensors.partial", ".dsv3-journal", "sub/config.partial"}) {
    Write(name, "x");
  }
  EXPECT_THAT(ListCheckpoint(directory_.path(), true).leftovers,
              ElementsAre(".dsv3-journal", "sub/config.partial", "z.safetensors.partial"));
}

TEST_F(CheckpointFilesTest, DeadLinksAmongSideFilesAreAWarning) {
  WriteSound();
  fs::create_symlink("nowhere", directory_ / "LICENSE");
  EXPECT_EQ(OnlyFinding(Open(), "dead-link", "LICENSE").severity, Severity::kWarning);
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
  Write("flax_model.msgpack", "x");
  ExpectBadInput([&] { Open(); }, "flax_model.msgpack is of another framework or runtime");
  Write("pytorch_model.bin", "x");
  ExpectBadInput([&] { Open(); }, "PyTorch files; several of them need");
  fs::create_symlink("loop", directory_ / "loop");
  ExpectBadInput([&] { OpenCheckpointFiles(directory_ / "loop"); }, "form a loop");
  fs::create_symlink("nowhere", directory_ / "dead");
  ExpectBadInput([&] { OpenCheckpointFiles(directory_ / "dead"); },
                 "it is a dead link, a symlink to ");
  ASSERT_EQ(mkfifo((directory_ / "fifo").c_str(), 0600), 0);
  ExpectBadInput([&] { OpenCheckpointFiles(directory_ / "fifo"); }, "neither a regular file");
}

TEST(ReadSmallFileTest, ReadsUpToTheLimit) {
  const TempDir directory;
  WriteFile(directory / "f", "12345");
  EXPECT_EQ(ReadSmallFile(directory / "f", 5), "12345");
  ExpectBadInput([&] { ReadSmallFile(directory / "f", 4); },
                 "has 5 bytes, at most 4 bytes are expected");
  ExpectBadInput([&] { ReadSmallFile(directory / "absent", 4); }, "no such file");
  ExpectBadInput([&] { ReadSmallFile(directory.path(), 4); }, "directory");
}

}  // namespace
}  // namespace dsv3::formats
