#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "formats/io/file_system.h"

namespace dsv3::testing {

// The real file system without its fsyncs, which take most of the time of a test that converts a
// few KB hundreds of times. What an fsync means is RecordingFileSystem's to remember.
class QuickFileSystem final : public formats::FileSystem {
 public:
  std::unique_ptr<formats::OutputFile> Create(const std::filesystem::path& path,
                                              std::uint64_t) override {
    return std::make_unique<File>(inner_.Create(path, 0));
  }
  std::unique_ptr<formats::OutputFile> OpenExisting(const std::filesystem::path& path) override {
    return std::make_unique<File>(inner_.OpenExisting(path));
  }
  std::unique_ptr<formats::OutputFile> Share(const std::filesystem::path& from,
                                             const std::filesystem::path& to,
                                             formats::Sharing sharing) override {
    auto shared = inner_.Share(from, to, sharing);
    return shared ? std::make_unique<File>(std::move(shared)) : nullptr;
  }
  std::unique_ptr<formats::ScratchFile> CreateScratch(
      const std::filesystem::path& directory) override {
    return inner_.CreateScratch(directory);
  }
  void Rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    inner_.Rename(from, to);
  }
  void Remove(const std::filesystem::path& path) override { inner_.Remove(path); }
  void CreateDirectory(const std::filesystem::path& path) override { inner_.CreateDirectory(path); }
  void RemoveDirectory(const std::filesystem::path& path) override { inner_.RemoveDirectory(path); }
  void SyncDirectory(const std::filesystem::path&) override {}

 private:
  class File final : public formats::OutputFile {
   public:
    explicit File(std::unique_ptr<formats::OutputFile> inner) : inner_(std::move(inner)) {}
    void WriteAt(std::uint64_t offset, std::span<const std::byte> data) override {
      inner_->WriteAt(offset, data);
    }
    void Truncate(std::uint64_t bytes) override { inner_->Truncate(bytes); }
    void Sync() override {}

   private:
    std::unique_ptr<formats::OutputFile> inner_;
  };

  formats::FileSystem& inner_ = formats::PosixFileSystem();
};

}  // namespace dsv3::testing
