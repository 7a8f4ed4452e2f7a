#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

// Everything that changes a disk goes through this interface, so that a test can record each write,
// fsync, rename and directory fsync, replay any prefix, and lose whatever was not synced.
namespace dsv3::formats {

// A file being written. Used by one thread at a time, except WriteAt: calls for disjoint ranges may
// run side by side.
class OutputFile {
 public:
  virtual ~OutputFile() = default;  // closes; errors at close without Sync are lost on purpose

  // Writes all bytes at `offset`. When address, offset and length are multiples of
  // kDirectAlignment and the file was created for streaming, the page cache is passed by.
  virtual void WriteAt(std::uint64_t offset, std::span<const std::byte> data) = 0;
  // Sets the length: cuts what direct writes padded.
  virtual void Truncate(std::uint64_t bytes) = 0;
  // Data and length are on stable storage when this returns (fsync).
  virtual void Sync() = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Creates or truncates `path` (mode 0666 less umask). `expected_bytes` > 0 asks for streaming
  // writes (O_DIRECT where possible) and for the space in advance (fallocate where possible), so
  // that a full disk shows before the first byte.
  virtual std::unique_ptr<OutputFile> Create(const std::filesystem::path& path,
                                             std::uint64_t expected_bytes) = 0;
  // Opens an existing file to continue at its end; WriteAt offsets stay absolute.
  virtual std::unique_ptr<OutputFile> OpenExisting(const std::filesystem::path& path) = 0;
  // Atomically replaces `to` if it exists.
  virtual void Rename(const std::filesystem::path& from, const std::filesystem::path& to) = 0;
  virtual void Remove(const std::filesystem::path& path) = 0;
  // Creates one directory; its parent must exist. No error when it is there already.
  virtual void CreateDirectory(const std::filesystem::path& path) = 0;
  // Removes an empty directory.
  virtual void RemoveDirectory(const std::filesystem::path& path) = 0;
  // Names created, renamed and removed in the directory are on stable storage when this returns.
  virtual void SyncDirectory(const std::filesystem::path& path) = 0;
};

// The real one. All errors are Error with code kIo (ENOSPC and EDQUOT name the space problem).
FileSystem& PosixFileSystem();

// Bytes that an unprivileged user can still write below `path` (its nearest existing ancestor).
std::uint64_t FreeDiskBytes(const std::filesystem::path& path);

}  // namespace dsv3::formats
