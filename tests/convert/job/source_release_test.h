#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/source_release.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// What tests of --delete-source-shards share.
namespace dsv3::testing {

// Tells of renames and removals before they happen.
class WatchedFileSystem final : public formats::FileSystem {
 public:
  using Hook = std::function<void(const std::filesystem::path& path)>;
  Hook on_remove = [](const std::filesystem::path&) {};
  Hook on_renamed = [](const std::filesystem::path&) {};

  std::unique_ptr<formats::OutputFile> Create(const std::filesystem::path& path,
                                              std::uint64_t bytes) override {
    return inner_.Create(path, bytes);
  }
  std::unique_ptr<formats::OutputFile> OpenExisting(const std::filesystem::path& path) override {
    return inner_.OpenExisting(path);
  }
  std::unique_ptr<formats::ScratchFile> CreateScratch(
      const std::filesystem::path& directory) override {
    return inner_.CreateScratch(directory);
  }
  void Rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    inner_.Rename(from, to);
    on_renamed(to);
  }
  void Remove(const std::filesystem::path& path) override {
    on_remove(path);
    inner_.Remove(path);
  }
  void CreateDirectory(const std::filesystem::path& path) override { inner_.CreateDirectory(path); }
  void RemoveDirectory(const std::filesystem::path& path) override { inner_.RemoveDirectory(path); }
  void SyncDirectory(const std::filesystem::path& path) override { inner_.SyncDirectory(path); }

 private:
  QuickFileSystem inner_;
};

class SourceReleaseTest : public ::testing::Test {
 protected:
  SourceReleaseTest() : SourceReleaseTest("in") {}
  // The source is at `in` below the directory of the test.
  explicit SourceReleaseTest(const std::string& in) : in_(dir_ / in) {}
  void SetUp() override {
    SmallFp8Checkpoint().Write(in_);
    Conversion(in_, dir_ / "expected").Run();
    expected_ = ReadTree(dir_ / "expected");
  }

  Conversion Command() const {
    Conversion conversion(in_, out_);
    conversion.request.run.delete_source_shards = true;
    return conversion;
  }

  std::set<std::string> ShardsLeft() const {
    std::set<std::string> names;
    for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(in_)) {
      const std::string name = entry.path().filename().string();
      if (name.ends_with(".safetensors")) names.insert(name);
    }
    return names;
  }

  TempDir dir_{MemoryDirectory()};
  const std::filesystem::path in_;
  const std::filesystem::path out_ = dir_ / "out";
  std::map<std::string, std::string> expected_;
};

}  // namespace dsv3::testing
