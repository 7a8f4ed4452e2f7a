#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "convert/job/run_id.h"
#include "convert/stream/record.h"
#include "formats/io/file_system.h"
#include "formats/job_journal.h"

namespace dsv3::convert {

using formats::kJournalName;

// A source file as a job saw it.
struct JournalSource {
  std::string name;
  std::uint64_t bytes = 0;
  std::int64_t mtime_ns = 0;
  std::string header_digest;    // empty for side files
  std::string checkpoint = {};  // as SourceFile::checkpoint
  friend bool operator==(const JournalSource&, const JournalSource&) = default;
};

// A tensor that expressions use beside their streams, and its digests.
struct JournalSide {
  std::string tensor;
  Digests digests;
};

// The description of a job, written before anything else is written.
struct JournalHead {
  std::string recipe;
  std::string fingerprint;  // of the plan and the run options that decide bytes
  std::vector<JournalSource> sources;
  std::vector<std::string> outputs;   // every file that the job makes
  std::vector<std::string> replaced;  // files that were there and that this job removes
  // The digests that the preflight found, for a run that continues when source shards are freed
  // already.
  std::vector<JournalSide> sides;
  // For messages alone; journals of earlier versions lack them. IN and the command that makes this
  // job, without OUT, as a shell takes them (formats/message_text.h); the options that decide
  // bytes, as ManifestJob::options.
  std::string input = {};
  std::string command = {};
  std::vector<std::pair<std::string, std::string>> options = {};
};

struct JournalState {
  JournalHead head;
  std::map<std::string, FileRecord> files;  // complete files by name
};

// The journal of an unfinished job, .dsv3-journal in the output directory (of parts and helping
// processes .dsv3-journal-part-3-of-16, .dsv3-journal-process-2): one line for the job and one for
// each complete file, each with its own digest, so that a line that a crash cut off is recognised.
// A file's line is durable before the file takes its name; hence a file without a line was not made
// by this job. Appending is thread-safe.
class Journal {
 public:
  // Reads a run's journal; nothing when there is none or its head is not whole.
  static std::optional<JournalState> Read(const std::filesystem::path& directory,
                                          const RunId& run = {});

  // Replaces any journal of this run by one with this head and these records, durably.
  Journal(formats::FileSystem& fs, const std::filesystem::path& directory, const JournalHead& head,
          const std::vector<FileRecord>& records, const RunId& run = {});

  // Durable when it returns.
  void Append(const std::vector<FileRecord>& records);

 private:
  std::mutex mutex_;
  std::unique_ptr<formats::OutputFile> file_;
  std::uint64_t bytes_ = 0;
};

// The first line of a journal, for a process that sends it to another.
std::string JournalHeadLine(const JournalHead& head);
// Reads it. Throws Error (kInternal) where it is not whole.
JournalHead ParseJournalHead(std::string_view line);
// The lines of records, in the same way.
std::string JournalLines(const std::vector<FileRecord>& records);
std::vector<FileRecord> ParseJournalLines(std::string_view lines);

// A run whose journal is in an output directory.
struct BegunRun {
  RunId name;
  JournalHead head;
  std::vector<std::string> files;  // names of the complete files in its journal
};

// The content of all journals of an output directory together.
struct JobJournals {
  std::vector<BegunRun> runs;               // the job's own first
  std::map<std::string, FileRecord> files;  // complete files by name
};
// With `skip_unreadable` the journals of other versions count as none; else they are refused
// (kUsage).
JobJournals ReadJournals(const std::filesystem::path& directory, bool skip_unreadable = false);

// Removes the journals of all runs, whole or not; with `but_the_jobs` those of parts and processes
// alone.
void RemoveJournals(const std::filesystem::path& directory, bool but_the_jobs,
                    formats::FileSystem& fs);

}  // namespace dsv3::convert
