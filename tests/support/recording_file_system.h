#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "formats/io/file_system.h"

namespace dsv3::testing {

// What a power cut leaves of the changes that were not synced.
enum class Crash {
  // Everything: the process was killed, the machine lives on.
  kKeepAll,
  // Nothing: files have their last synced content (empty if there is none), and directories the
  // names that they had at their last sync.
  kLoseUnsynced,
  // Names but no data: what a rename without an fsync before it can end in.
  kLoseDataKeepNames,
  // Names and lengths, with zeros in place of what was not synced.
  kZeroDataKeepNames,
  // Data but no names.
  kKeepDataLoseNames,
};

inline constexpr Crash kEveryCrash[] = {Crash::kKeepAll, Crash::kLoseUnsynced,
                                        Crash::kLoseDataKeepNames, Crash::kZeroDataKeepNames,
                                        Crash::kKeepDataLoseNames};

// The name of the enumerator, for messages.
std::string ToString(Crash crash);

// One recorded call.
struct Operation {
  enum class Kind {
    kCreate,
    kOpenExisting,
    kWrite,
    kTruncate,
    kSync,
    kRename,
    kRemove,
    kCreateDirectory,
    kRemoveDirectory,
    kSyncDirectory,
  };

  Kind kind;
  std::string path;          // relative to the root; of the file when it was opened, for its calls
  std::string to = {};       // kRename
  std::size_t handle = 0;    // kCreate, kOpenExisting and the calls of that OutputFile
  std::uint64_t offset = 0;  // kWrite; the length for kTruncate
  std::string data = {};     // kWrite
};

// For messages: "write out/a.partial [0, 4096)".
std::string ToString(const Operation& operation);

// Passes everything on to another file system and records it, so that afterwards the directory
// tree can be rebuilt as a crash after any of the operations could have left it: syncing a file
// makes its data durable but not its name; syncing a directory makes its names durable, but not
// what they stand for. What is below `root` in the beginning counts as durable. Calls for paths
// outside `root` are passed on unrecorded. Calls that fail are not recorded. Thread-safe; keeps all
// data written in memory.
class RecordingFileSystem final : public formats::FileSystem {
 public:
  RecordingFileSystem(formats::FileSystem& inner, const std::filesystem::path& root);
  ~RecordingFileSystem() override;

  // Not while another thread still writes.
  const std::vector<Operation>& operations() const { return operations_; }

  // Makes `into`, an empty or missing directory, what `root` is after a crash that comes when the
  // first `count` operations have returned.
  void Replay(std::size_t count, Crash crash, const std::filesystem::path& into) const;

  std::unique_ptr<formats::OutputFile> Create(const std::filesystem::path& path,
                                              std::uint64_t expected_bytes) override;
  // Recorded as what it amounts to: a new file whose data is durable when they are shared with a
  // file that was there, for the data of `from` are.
  std::unique_ptr<formats::OutputFile> Share(const std::filesystem::path& from,
                                             const std::filesystem::path& to,
                                             formats::Sharing sharing) override;
  std::unique_ptr<formats::OutputFile> OpenExisting(const std::filesystem::path& path) override;
  // Passed on unrecorded: no crash leaves anything of it.
  std::unique_ptr<formats::ScratchFile> CreateScratch(
      const std::filesystem::path& directory) override;
  void Rename(const std::filesystem::path& from, const std::filesystem::path& to) override;
  void Remove(const std::filesystem::path& path) override;
  void CreateDirectory(const std::filesystem::path& path) override;
  void RemoveDirectory(const std::filesystem::path& path) override;
  void SyncDirectory(const std::filesystem::path& path) override;

 private:
  class File;

  // Whether `path` lies in root, and then its path from there ("." for root itself).
  bool IsRecorded(const std::filesystem::path& path, std::string& relative) const;
  // Wraps a file that the inner file system opened.
  std::unique_ptr<formats::OutputFile> Wrap(Operation::Kind kind, const std::string& relative,
                                            std::unique_ptr<formats::OutputFile> inner);
  template <typename Call>
  void PassOn(Operation::Kind kind, const std::filesystem::path& path, Call call);

  formats::FileSystem& inner_;
  const std::filesystem::path root_;
  std::map<std::string, std::string> base_;  // as ReadTree gives it
  std::mutex mutex_;  // held while a call is passed on too: the record has the order of the disk
  std::vector<Operation> operations_;
  std::size_t handles_ = 0;
};

}  // namespace dsv3::testing
