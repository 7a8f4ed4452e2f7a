#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "convert/job/journal.h"
#include "convert/job/run_options.h"
#include "convert/plan/plan.h"
#include "convert/stream/executor.h"
#include "convert/stream/record.h"
#include "formats/io/file_system.h"
#include "formats/io/input_file.h"

namespace dsv3::convert {

// Makes files of an output directory durable and visible, in the order that keeps every moment
// recoverable: NAME.partial → fsync → its line in the journal, fsync → rename → fsync of the
// directory. A file whose digests the plan knows gets neither line nor name where it has others
// (Error kBadInput, naming file and tensor).
//
// Where a plan has digests of sources to check, no file becomes visible before all sources were
// checked: the files keep the name NAME.partial, with their lines in the journal, until MakeVisible
// renames them all.
class Committer final : public OutputSink {
 public:
  // Called after each weight file that became visible as it was committed, by its position in the
  // plan.
  using OnCommitted = std::function<void(std::size_t file, const FileRecord& record)>;

  Committer(formats::FileSystem& fs, std::filesystem::path directory, const Plan& plan,
            Journal& journal, const RunOptions& run,
            const std::map<std::string, FileRecord>& finished);

  void SetOnCommitted(OnCommitted callback) { on_committed_ = std::move(callback); }

  std::unique_ptr<formats::OutputFile> Open(std::size_t file) override;
  std::unique_ptr<formats::OutputFile> Reopen(std::size_t file) override;
  void Commit(std::size_t file, std::unique_ptr<formats::OutputFile> output,
              FileRecord record) override;
  std::span<const std::byte> ReadBack(std::size_t file, std::uint64_t offset, std::size_t length,
                                      std::span<std::byte> scratch) override;

  // Copies or writes the side files that no earlier run finished, all durable before the first is
  // visible.
  void WriteSideFiles(ProgressSink& progress, const StopToken& stop);
  // Renames the files that still wait for their final names, side files first, files of earlier
  // runs included. Call it when all weight files of the plan are made and all checks are done.
  void MakeVisible();
  // Writes the index. Call it, and the two functions below, after MakeVisible.
  void WriteIndex();
  // Writes a file, unless an earlier run finished it.
  void WriteText(const std::string& name, std::string_view text);
  // Writes or copies the last file, which no journal line precedes: it ends the job.
  void WriteLast(std::string_view name, const std::string& text);
  void CopyLast(const PlannedSideFile& file, ProgressSink& progress, const StopToken& stop);

  // Takes the records of files that another process committed.
  void Adopt(std::vector<FileRecord> records);

  // Records of all finished files, those of earlier runs included. Not to be called during Execute.
  const std::unordered_map<std::string, FileRecord>& records() const { return records_; }

  // Weight files that this run finished. Not to be called during Execute.
  std::size_t committed_files() const { return committed_files_; }

  // Without those of files that share the bytes of a source file.
  std::uint64_t bytes_written() const { return bytes_written_; }

 private:
  void CreateParents(const std::string& name);
  FileRecord WritePartial(const std::string& name, std::string_view content);
  void RenameLast(const std::string& name);
  FileRecord CopyPartial(const PlannedSideFile& side, ProgressSink& progress,
                         const StopToken& stop);
  // Journal line, renames, directory fsyncs.
  void Publish(std::vector<FileRecord> records);
  // The renames of complete files, and the syncs that make them durable.
  void Rename(std::span<const std::string> names);
  void SyncParents(std::span<const std::string> names);

  formats::FileSystem& fs_;
  std::filesystem::path directory_;
  const Plan& plan_;
  Journal& journal_;
  bool sha256_;
  formats::Sharing sharing_;
  bool waits_;     // files become visible only by MakeVisible
  bool has_base_;  // the source's tensors are made on another checkpoint's
  OnCommitted on_committed_;
  std::mutex mutex_;  // guards all below
  std::unordered_map<std::string, FileRecord> records_;
  // Files that are read back, by their position in the plan.
  std::unordered_map<std::size_t, std::shared_ptr<const formats::InputFile>> read_back_;
  std::unordered_set<std::size_t> shared_;  // files that share the bytes of a source file
  std::uint64_t bytes_written_ = 0;
  std::size_t committed_files_ = 0;
};

// Whether a plan's files become visible together, when all of them are made and checked.
bool WaitsToBeVisible(const Plan& plan, const RunOptions& run);

}  // namespace dsv3::convert
