#pragma once

#include <atomic>
#include <cstddef>
#include <filesystem>
#include <memory>

#include "formats/io/file_system.h"

namespace dsv3::testing {

// Passes everything on to another file system until a chosen change fails with a chosen errno, as
// a full, failing or suddenly read-only disk does. A failing WriteAt or Append has written the
// first half of its bytes before. Thread-safe.
class FaultyFileSystem final : public formats::FileSystem {
 public:
  enum class Failing {
    kOnce,        // only the chosen change
    kFromThenOn,  // the chosen one and all after it
  };

  // `fail_at` counts changes (each call of FileSystem, OutputFile or ScratchFile except
  // OpenExisting, reading and closing) from 0.
  FaultyFileSystem(formats::FileSystem& inner, std::size_t fail_at, int errno_value,
                   Failing failing = Failing::kOnce);

  // How many changes were asked for so far, the failed ones included.
  std::size_t changes() const { return changes_; }

  std::unique_ptr<formats::OutputFile> Create(const std::filesystem::path& path,
                                              std::uint64_t expected_bytes) override;
  std::unique_ptr<formats::OutputFile> Share(const std::filesystem::path& from,
                                             const std::filesystem::path& to,
                                             formats::Sharing sharing) override;
  std::unique_ptr<formats::OutputFile> OpenExisting(const std::filesystem::path& path) override;
  std::unique_ptr<formats::ScratchFile> CreateScratch(
      const std::filesystem::path& directory) override;
  void Rename(const std::filesystem::path& from, const std::filesystem::path& to) override;
  void Remove(const std::filesystem::path& path) override;
  void CreateDirectory(const std::filesystem::path& path) override;
  void RemoveDirectory(const std::filesystem::path& path) override;
  void SyncDirectory(const std::filesystem::path& path) override;

 private:
  class File;
  class Scratch;

  // Counts one change; whether it must fail.
  bool NextFails();
  void FailIfDue(const char* action, const std::filesystem::path& path);

  formats::FileSystem& inner_;
  const std::size_t fail_at_;
  const int errno_value_;
  const Failing failing_;
  std::atomic<std::size_t> changes_ = 0;
};

}  // namespace dsv3::testing
