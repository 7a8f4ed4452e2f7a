#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/execute/journal.h"
#include "convert/plan/plan.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

// A job, as far as an output directory needs to know it.
struct OutputJob {
  const Plan* plan = nullptr;
  JournalHead head;          // `replaced` is still empty
  std::string manifest_job;  // ManifestJob
  bool overwrite = false;
};

// What an output directory is to a job.
struct OutputState {
  enum class Kind {
    kFresh,       // nothing of this job is there
    kUnfinished,  // this job began and did not end
    kFinished,    // this job's complete output: sizes and headers are right
  };
  Kind kind = Kind::kFresh;
  std::optional<JournalState> journal;  // kUnfinished
  // With overwrite: files of an earlier job of this toolkit that give way.
  std::vector<std::string> replaced;
  bool exists = false;  // the directory is there
};

// Looks at the directory; changes nothing. Throws Error (kUsage) when the job must not write
// there: not a directory, not empty, another job's output or unfinished job without overwrite, or,
// even with it, files in the way that this toolkit did not make; kBadInput when the source changed
// since this job began.
OutputState LookAtOutput(const std::filesystem::path& directory, const OutputJob& job);

// "NAME.partial", under which a file is written.
std::string PartialName(const std::string& name);

// Removes what interrupted runs left (part files of the job and of the jobs it replaces) and the
// files that give way, manifest and index first. Files in `keep` stay.
void ClearOutput(const std::filesystem::path& directory, const JournalHead& head,
                 const std::map<std::string, FileRecord>& keep, formats::FileSystem& fs);

}  // namespace dsv3::convert
