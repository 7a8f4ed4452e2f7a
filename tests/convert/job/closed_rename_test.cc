#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include <gtest/gtest.h>

#include "convert/recipes/sample.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/part_test.h"
#include "tests/convert/support/quick_file_system.h"

// Some file systems cannot rename a file while it is open (gcsfuse): each is closed before.
namespace dsv3::convert {
namespace {

// Counts the files that are open for writing, by path.
class OpenCounts {
 public:
  void Add(const std::string& path, int change) {
    const std::lock_guard lock(mutex_);
    open_[path] += change;
  }
  int Of(const std::string& path) {
    const std::lock_guard lock(mutex_);
    return open_[path];
  }

 private:
  std::mutex mutex_;
  std::map<std::string, int> open_;
};

class CountedFile final : public formats::OutputFile {
 public:
  CountedFile(std::unique_ptr<formats::OutputFile> inner, std::string path, OpenCounts& counts)
      : inner_(std::move(inner)), path_(std::move(path)), counts_(counts) {
    counts_.Add(path_, 1);
  }
  ~CountedFile() override { counts_.Add(path_, -1); }
  void WriteAt(std::uint64_t offset, std::span<const std::byte> data) override {
    inner_->WriteAt(offset, data);
  }
  void Truncate(std::uint64_t bytes) override { inner_->Truncate(bytes); }
  void Sync() override { inner_->Sync(); }

 private:
  std::unique_ptr<formats::OutputFile> inner_;
  const std::string path_;
  OpenCounts& counts_;
};

class ClosedRenameFileSystem final : public formats::FileSystem {
 public:
  std::unique_ptr<formats::OutputFile> Create(const std::filesystem::path& path,
                                              std::uint64_t expected_bytes) override {
    return std::make_unique<CountedFile>(inner_.Create(path, expected_bytes), path.string(),
                                         counts_);
  }
  std::unique_ptr<formats::OutputFile> OpenExisting(const std::filesystem::path& path) override {
    return std::make_unique<CountedFile>(inner_.OpenExisting(path), path.string(), counts_);
  }
  std::unique_ptr<formats::ScratchFile> CreateScratch(
      const std::filesystem::path& directory) override {
    return inner_.CreateScratch(directory);
  }
  void Rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    EXPECT_EQ(counts_.Of(from.string()), 0) << from << " is open";
    ++renames_;
    inner_.Rename(from, to);
  }
  void Remove(const std::filesystem::path& path) override { inner_.Remove(path); }
  void CreateDirectory(const std::filesystem::path& path) override { inner_.CreateDirectory(path); }
  void RemoveDirectory(const std::filesystem::path& path) override { inner_.RemoveDirectory(path); }
  void SyncDirectory(const std::filesystem::path& path) override { inner_.SyncDirectory(path); }

  int renames() const { return renames_; }

 private:
  testing::QuickFileSystem inner_;
  OpenCounts counts_;
  std::atomic<int> renames_ = 0;
};

using ClosedRenameTest = testing::PartTest;

TEST_F(ClosedRenameTest, NoFileIsOpenWhenItIsRenamed) {
  ClosedRenameFileSystem file_system;
  Part(0, 2).Run(file_system);
  Part(1, 2).Run(file_system);
  Finish().Run(file_system);
  ExpectFinished();
  testing::Conversion freeing = Whole(dir_ / "freeing");
  freeing.request.run.delete_source_shards = true;
  freeing.Run(file_system);
  ProgressSink progress;
  SampleOptions sample;
  WriteSample(sample, dir_ / "sample", file_system, progress);
  EXPECT_GT(file_system.renames(), 20);
}

}  // namespace
}  // namespace dsv3::convert
