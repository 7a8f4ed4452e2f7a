#include <filesystem>
#include <string>

#include "formats/job_journal.h"
#include "tests/formats/checkpoint_test.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;
using dsv3::testing::CheckpointFilesTest;
using dsv3::testing::ExpectBadInput;
using dsv3::testing::Index;
using dsv3::testing::Names;
using dsv3::testing::Shard;
using dsv3::testing::WriteFile;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(CheckpointFilesTest, SaysThatAFileIsBeingMade) {
  const fs::path file = directory_ / "m.gguf";
  ExpectBadInput([&] { OpenCheckpointFiles(file); }, "correct the path");
  WriteFile(directory_ / "m.gguf.partial/.dsv3-journal",
            DigestedLine(R"({"dsv3_journal":2,"recipe":"to-gguf","sources":[],)"
                         R"("outputs":["m.gguf"],"replaced":[],"sides":[]})"));
  ExpectBadInput([&] { OpenCheckpointFiles(file); },
                 "there is no such file yet: a conversion (to-gguf) into");
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
  ExpectBadInput([&] { OpenCheckpointFiles(cache_); },
                 "the cache holds another: give " + (cache_ / "snapshots/abc123").string());
  WriteCache("def456");
  ExpectBadInput([&] { OpenCheckpointFiles(cache_); },
                 "the cache holds 2 others: give one of the directories in ");
  fs::remove_all(cache_ / "snapshots");
  fs::create_directories(cache_ / "snapshots");
  ExpectBadInput([&] { OpenCheckpointFiles(cache_); },
                 "not in the cache; download the model again");
  fs::remove_all(cache_ / "refs");
  fs::remove_all(cache_ / "snapshots/abc123");
  ExpectBadInput([&] { OpenCheckpointFiles(cache_); }, "holds no snapshot");
}

}  // namespace
}  // namespace dsv3::formats
