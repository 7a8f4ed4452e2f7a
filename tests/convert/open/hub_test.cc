#include "convert/open/hub.h"

#include <chrono>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/verify/checksum.h"
#include "formats/error.h"
#include "formats/hash/git_blob.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/convert/verify/checksum_support.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::AsBytes;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kTinyShard1;
using testing::ReadFile;
using testing::Sha256Of;
using testing::WriteFile;

const std::string kCommit(40, 'c');
const std::string kXetHash(64, 'e');

std::string GitBlobOf(const std::string& content) {
  return formats::GitBlobSha1Hex(AsBytes(content));
}

bool IsInLfs(const std::string& name) { return name.ends_with(".safetensors"); }

// The ETag that the hub gives a file.
std::string EtagOf(const std::string& name, const std::string& content) {
  return IsInLfs(name) ? Sha256Of(content) : GitBlobOf(content);
}

// The entry of a file in a listing; with `xet_only` the hub tells no SHA-256 of it.
std::string TreeEntry(const std::string& name, const std::string& content, bool xet_only) {
  if (!IsInLfs(name)) {
    return fmt::format(R"({{"size": {}, "blob_id": "{}"}})", content.size(), GitBlobOf(content));
  }
  const std::string pointer = LfsPointerText({Sha256Of(content), content.size()});
  const std::string lfs =
      fmt::format(R"("lfs_sha256": "{}", "lfs_size": {}, )", Sha256Of(content), content.size());
  return fmt::format(R"({{"size": {}, "blob_id": "{}", {}"xet_hash": "{}"}})", content.size(),
                     GitBlobOf(pointer), xet_only ? "" : lfs, kXetHash);
}

class HubTest : public ::testing::Test {
 protected:
  HubTest() : files_(Files()) {}

  static std::map<std::string, std::string> Files() {
    testing::TempDir dir(testing::MemoryDirectory());
    testing::SmallFp8Checkpoint().Write(dir.path());
    std::map<std::string, std::string> files = testing::ReadTree(dir.path());
    std::erase_if(files, [](const auto& file) { return file.first.ends_with('/'); });
    return files;
  }

  double Now() const {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  }

  void WriteRecord(const std::string& name, const std::string& etag, double time) const {
    WriteFile(local_ / ".cache/huggingface/download" / (name + ".metadata"),
              fmt::format("{}\n{}\n{}\n", kCommit, etag, time));
  }
  std::string Tree(bool xet_only = false) const {
    std::string text = R"({"format_version": 1, "files": {)";
    for (const auto& [name, content] : files_) {
      if (text.back() != '{') text += ", ";
      text += fmt::format("\"{}\": {}", name, TreeEntry(name, content, xet_only));
    }
    return text + "}}";
  }

  void WriteLocal(bool records = true) const {
    for (const auto& [name, content] : files_) {
      WriteFile(local_ / name, content);
      if (records) WriteRecord(name, EtagOf(name, content), Now());
    }
  }
  // models--org--name; blobs in the store of Xet hashes when `shared`.
  void WriteCache(bool shared = false) const {
    for (const auto& [name, content] : files_) {
      const std::string etag = EtagOf(name, content);
      if (shared && IsInLfs(name)) {
        const std::string store_name = std::string(60, 'e') + etag.substr(0, 4);
        WriteFile(dir_ / "store" / store_name, content);
        fs::create_directories(cache_ / "blobs");
        fs::create_symlink("../../store/" + store_name, cache_ / "blobs" / etag);
      } else {
        WriteFile(cache_ / "blobs" / etag, content);
      }
      const fs::path link = Snapshot() / name;
      fs::create_directories(link.parent_path());
      const fs::path up = fs::path(name).has_parent_path() ? "../../../blobs" : "../../blobs";
      fs::create_symlink(up / etag, link);
    }
    WriteFile(cache_ / "refs/main", kCommit);
  }
  fs::path Snapshot() const { return cache_ / "snapshots" / kCommit; }

  std::vector<std::string> Kinds(const fs::path& directory) const {
    return testing::Kinds(testing::Check(directory).verification);
  }

  static void Spoil(const fs::path& path) {
    const fs::file_time_type time = fs::last_write_time(path);
    std::string content = ReadFile(path);
    content.back() = static_cast<char>(~content.back());
    WriteFile(path, content);
    fs::last_write_time(path, time);
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  fs::path local_ = dir_ / "local";
  fs::path cache_ = dir_ / "models--org--name";
  std::map<std::string, std::string> files_;
};

TEST_F(HubTest, ChecksALocalDirectoryByItsRecords) {
  WriteLocal();
  const CheckChecksumsReport checked = testing::Check(local_);
  EXPECT_THAT(checked.verification.findings, IsEmpty());
  EXPECT_EQ(checked.basis, CheckChecksumsReport::Basis::kHubMetadata);
  EXPECT_EQ(checked.basis_name, ".cache/huggingface/download/*.metadata");
  EXPECT_EQ(checked.files, files_.size());
  Spoil(local_ / kTinyShard1);
  Spoil(local_ / "config.json");
  EXPECT_THAT(Kinds(local_), ElementsAre("wrong-digest", "wrong-digest"));
  fs::remove(local_ / kTinyShard1);
  EXPECT_THAT(Kinds(local_), Contains("missing-file"));
  WriteFile(local_ / "other.bin", "x");
  EXPECT_THAT(Kinds(local_), Contains("extra-file"));
}

TEST_F(HubTest, AFileThatWasAddedToADownloadIsAWarning) {
  WriteLocal(true);
  WriteFile(local_ / "NOTES.md", "my notes");
  const Verification found = testing::Check(local_).verification;
  ASSERT_EQ(found.findings.size(), 1U);
  EXPECT_EQ(found.findings[0].kind, "extra-file");
  EXPECT_THAT(found.findings[0].message, ::testing::Not(HasSubstr("remove it")));
  EXPECT_TRUE(found.Passes(/*strict=*/false));
  EXPECT_FALSE(found.Passes(/*strict=*/true));
}

TEST_F(HubTest, ChecksALocalDirectoryByItsTreeAlone) {
  WriteLocal(false);
  WriteFile(local_ / ".cache/huggingface/trees" / (kCommit + ".json"), Tree());
  EXPECT_THAT(Kinds(local_), IsEmpty());
  EXPECT_THAT(testing::Check(local_).basis_name, HasSubstr("trees/" + kCommit));
  Spoil(local_ / kTinyShard1);
  EXPECT_THAT(Kinds(local_), ElementsAre("wrong-digest"));
  EXPECT_THAT(testing::Kinds(testing::Check(local_, true).verification), IsEmpty());
  WriteFile(local_ / "config.json", "{}");
  EXPECT_THAT(testing::Kinds(testing::Check(local_, true).verification), ElementsAre("wrong-size"));
}

TEST_F(HubTest, AXetHashIsNoSha256) {
  WriteLocal();
  WriteFile(local_ / ".cache/huggingface/trees" / (kCommit + ".json"), Tree());
  // 64 hex digits where an ETag stands.
  WriteRecord(kTinyShard1, kXetHash, Now());
  EXPECT_THAT(Kinds(local_), IsEmpty());
  Spoil(local_ / kTinyShard1);
  EXPECT_THAT(Kinds(local_), ElementsAre("wrong-digest"));
}

TEST_F(HubTest, FindsTheSha256OfAXetFileByItsPointer) {
  WriteLocal(false);
  WriteFile(local_ / ".cache/huggingface/trees" / (kCommit + ".json"), Tree(true));
  const auto records = ReadHubRecords(local_);
  ASSERT_TRUE(records.has_value());
  EXPECT_EQ(records->files.at(kTinyShard1).sha256, "");
  EXPECT_EQ(records->files.at(kTinyShard1).git_blob_sha1, "");
  EXPECT_THAT(Kinds(local_), IsEmpty());
  Spoil(local_ / kTinyShard1);
  EXPECT_THAT(Kinds(local_), ElementsAre("wrong-digest"));
}

TEST_F(HubTest, ATreeThatCallsAXetHashASha256IsNotBelieved) {
  WriteLocal(false);
  std::string tree = Tree();
  const std::string sha256 = Sha256Of(files_.at(kTinyShard1));
  tree.replace(tree.find(sha256), 64, kXetHash);
  WriteFile(local_ / ".cache/huggingface/trees" / (kCommit + ".json"), tree);
  EXPECT_THAT(Kinds(local_), IsEmpty());
}

TEST_F(HubTest, ARecordIsTrustedOnlyIfItIsAsNewAsTheFile) {
  WriteLocal();
  const auto is_outdated = [&] { return ReadHubRecords(local_)->files.at("config.json").outdated; };
  const std::string etag = EtagOf("config.json", files_.at("config.json"));
  EXPECT_FALSE(is_outdated());
  WriteRecord("config.json", etag, Now() - 100);
  EXPECT_TRUE(is_outdated());
  // The bytes are right all the same.
  EXPECT_THAT(Kinds(local_), IsEmpty());
  Spoil(local_ / "config.json");
  EXPECT_THAT(Kinds(local_), ElementsAre("outdated-record"));
}

TEST_F(HubTest, ChecksASnapshotByTheNamesOfItsBlobs) {
  WriteCache();
  for (const fs::path& path : {cache_, Snapshot()}) {
    const CheckChecksumsReport checked = testing::Check(path);
    EXPECT_THAT(checked.verification.findings, IsEmpty());
    EXPECT_EQ(checked.basis, CheckChecksumsReport::Basis::kHubMetadata);
    EXPECT_EQ(checked.files, files_.size());
  }
  Spoil(cache_ / "blobs" / EtagOf(kTinyShard1, files_.at(kTinyShard1)));
  EXPECT_THAT(Kinds(cache_), ElementsAre("wrong-digest"));
  fs::remove(cache_ / "blobs" / EtagOf("config.json", files_.at("config.json")));
  EXPECT_THAT(Kinds(cache_), Contains("missing-file"));
}

TEST_F(HubTest, ABlobThatIsALinkIntoTheStoreOfXetHashesKeepsItsName) {
  WriteCache(true);
  EXPECT_THAT(Kinds(cache_), IsEmpty());
  WriteFile(cache_ / "trees" / (kCommit + ".json"), Tree());
  EXPECT_THAT(Kinds(cache_), IsEmpty());
}

TEST_F(HubTest, TheTreeOfACacheTellsWhatIsMissing) {
  WriteCache();
  WriteFile(cache_ / "trees" / (kCommit + ".json"), Tree());
  EXPECT_THAT(Kinds(cache_), IsEmpty());
  fs::remove(Snapshot() / kTinyShard1);
  EXPECT_THAT(Kinds(cache_), ElementsAre("missing-file"));
}

TEST_F(HubTest, CallsAPointerByItsName) {
  WriteLocal();
  const std::string content = files_.at(kTinyShard1);
  WriteFile(local_ / kTinyShard1, LfsPointerText({Sha256Of(content), content.size()}));
  EXPECT_THAT(Kinds(local_), ElementsAre("lfs-pointer"));
  EXPECT_THAT(testing::Kinds(testing::Check(local_, true).verification),
              ElementsAre("lfs-pointer"));
}

TEST_F(HubTest, RecordsThatCannotBeReadAreFindings) {
  WriteLocal();
  WriteFile(local_ / ".cache/huggingface/download/config.json.metadata", "x\ny\n");
  WriteFile(local_ / ".cache/huggingface/trees" / (kCommit + ".json"), "{");
  EXPECT_THAT(Kinds(local_), Contains("bad-hub-record").Times(2));
  for (const char* text :
       {R"({"format_version": 2, "files": {}})", R"({"files": {}})",
        R"({"format_version": 1, "files": {"../x": {"size": 1, "blob_id": ""}}})",
        R"({"format_version": 1, "files": {"a": {"size": -1}}})", "[]", ""}) {
    WriteFile(local_ / ".cache/huggingface/trees" / (kCommit + ".json"), text);
    EXPECT_THAT(Kinds(local_), Contains("bad-hub-record").Times(2)) << text;
  }
}

TEST_F(HubTest, WithoutRecordsThereIsNothingToCheckAgainst) {
  WriteLocal(false);
  EXPECT_FALSE(ReadHubRecords(local_).has_value());
  fs::create_directories(local_ / ".cache/huggingface/download");
  EXPECT_FALSE(ReadHubRecords(local_).has_value());
}

TEST(LfsPointerTest, ReadsWhatItWrites) {
  const LfsPointer pointer{std::string(64, 'a'), 123456789012};
  const auto read = ParseLfsPointer(LfsPointerText(pointer));
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->sha256, pointer.sha256);
  EXPECT_EQ(read->bytes, pointer.bytes);
}

TEST(LfsPointerTest, RejectsOtherTexts) {
  const std::string text = LfsPointerText({std::string(64, 'a'), 12});
  EXPECT_FALSE(ParseLfsPointer("").has_value());
  EXPECT_FALSE(ParseLfsPointer(text + "more").has_value());
  EXPECT_FALSE(ParseLfsPointer(text.substr(0, text.size() - 3)).has_value());
  EXPECT_FALSE(ParseLfsPointer(text.substr(1)).has_value());
}

}  // namespace
}  // namespace dsv3::convert
