#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

// Everything that changes a disk goes through this interface, so that a test can record each write,
// fsync, rename and directory fsync, replay any prefix, and lose whatever was not synced.
namespace dsv3::formats {

// A file being written. Used by one thread at a time, except WriteAt: calls for disjoint ranges may
// run side by side.
class OutputFile {
 public:
  virtual ~OutputFile() = default;  // closes; errors at close without Sync are lost on purpose

  // Writes all bytes at `offset`. When the file was created for streaming, whole blocks from an
  // address and an offset that are multiples of kDirectAlignment pass the page cache by; anything
  // else (the unaligned end of a file) is written through it.
  virtual void WriteAt(std::uint64_t offset, std::span<const std::byte> data) = 0;
  // Sets the length: cuts what direct writes padded.
  virtual void Truncate(std::uint64_t bytes) = 0;
  // Data and length are on stable storage when this returns (fsync).
  virtual void Sync() = 0;
};

// What does not fit in memory: a file without a name, which goes with the instance, and with the
// process however that ends. Used by one thread at a time.
class ScratchFile {
 public:
  virtual ~ScratchFile() = default;

  virtual std::uint64_t bytes() const = 0;
  virtual void Append(std::span<const std::byte> data) = 0;
  // Precondition: the file has these bytes.
  virtual void ReadAt(std::uint64_t offset, std::span<std::byte> out) const = 0;
  virtual void Clear() = 0;
};

// How a new file may have the bytes of another one that nobody writes anew.
enum class Sharing {
  kBlocks,  // a file of its own that shares the blocks until one of the two changes (a reflink)
  kInode,   // a further name of the same file (a hard link)
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Makes `to` a file with the bytes of `from`, a regular file and no link, in place of whatever
  // regular file has that name. The file that is returned is to be synced, never written. nullptr,
  // and nothing is done, where the file system cannot share files in that way.
  virtual std::unique_ptr<OutputFile> Share(const std::filesystem::path& /*from*/,
                                            const std::filesystem::path& /*to*/,
                                            Sharing /*sharing*/) {
    return nullptr;
  }

  // Creates `path`, or truncates it where it is a file with no other name (mode 0666 less umask); a
  // file with further names loses this one, for its bytes belong to these, too. `expected_bytes` >
  // 0 asks for streaming writes (O_DIRECT where possible) and for the space in advance (fallocate
  // where possible), so that a full disk shows before the first byte; the file may have that length
  // at once, so Truncate where it comes out shorter. A symbolic link in place of the file is
  // refused, and when the space is not there no file of that name is left.
  virtual std::unique_ptr<OutputFile> Create(const std::filesystem::path& path,
                                             std::uint64_t expected_bytes) = 0;
  // Opens an existing regular file (no symbolic link) to continue its streaming writes; WriteAt
  // offsets are absolute.
  virtual std::unique_ptr<OutputFile> OpenExisting(const std::filesystem::path& path) = 0;
  // An empty file on the disk of `directory`, which exists.
  virtual std::unique_ptr<ScratchFile> CreateScratch(const std::filesystem::path& directory) = 0;
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

// Creates the directory and whatever parents are missing, durably. Returns those that were made,
// the innermost first. Throws Error (kUsage) when something on the way is not a directory.
std::vector<std::filesystem::path> CreateDirectories(FileSystem& fs,
                                                     const std::filesystem::path& path);

// The real one. All errors are Error with code kIo (ENOSPC and EDQUOT name the space problem).
FileSystem& PosixFileSystem();

// Bytes that an unprivileged user can still write below `path` (its nearest existing ancestor); the
// largest value where the file system gives no number. Throws Error kIo.
std::uint64_t FreeDiskBytes(const std::filesystem::path& path);

}  // namespace dsv3::formats
