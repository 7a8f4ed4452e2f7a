#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/job/journal.h"
#include "convert/job/manifest.h"
#include "convert/plan/plan.h"
#include "formats/io/file_system.h"
#include "formats/manifest.h"

namespace dsv3::convert {

// The facts about a job that are compared with an output directory.
struct OutputJob {
  const Plan* plan = nullptr;
  JournalHead head;  // `replaced` is still empty
  formats::ManifestJob manifest_job;
  std::string manifest_job_text;
  bool overwrite = false;
  std::string output;  // for messages, as a shell takes it, where it is not the directory
  // The run that looks: of the whole job, or a part of it beside others.
  RunId run;
  // The files of head.outputs that this run may write; all of them for a run of the whole job.
  std::vector<std::string> writes;
  std::vector<std::filesystem::path> source_paths;  // of all files that the job reads
};

// The state of an output directory for a job.
struct OutputState {
  enum class Kind {
    kFresh,       // nothing of this job is there
    kUnfinished,  // this job began and did not end
    kFinished,    // this job's complete output: sizes and headers are right
  };
  Kind kind = Kind::kFresh;
  // kFinished: that of the output, unless it is a given one (Plan::manifest).
  std::optional<ManifestSummary> manifest;
  // kUnfinished: all runs that began this job, and the files that they finished. kFresh: the runs
  // of the job that this one replaces.
  JobJournals journals;
  // With overwrite: the files that this job replaces, and other files that an earlier job of this
  // toolkit made there. They are removed once the journal lists them.
  std::vector<std::string> replaced;
  // With overwrite: files that an earlier job of this toolkit made there and that were changed
  // later, so that this job does not replace them.
  std::vector<std::string> changed;
  bool exists = false;  // the directory is there
};

// Looks at the directory; changes nothing. Throws Error (kUsage) when the job must not write there:
// not a directory, a part of another number of parts; without overwrite also not empty, another
// job's output or unfinished job; with it where something cannot be replaced by a file (a
// directory, a file of the source); kBadInput when the source changed since this job began, or
// another run of it had another source. With overwrite it reads files of earlier jobs that may have
// been changed.
OutputState LookAtOutput(const std::filesystem::path& directory, const OutputJob& job,
                         ProgressSink& progress, const StopToken& stop);

// "NAME.partial", under which a file is written.
std::string PartialName(const std::string& name);

// Removes the partial files (NAME.partial) that interrupted runs left of `unfinished`, and the
// files in `replaced`: manifest, layout.json and index first.
void ClearOutput(const std::filesystem::path& directory, const std::vector<std::string>& unfinished,
                 const std::vector<std::string>& replaced, formats::FileSystem& fs);

// Merges the journals of several runs into the job's own, so that a run of the whole job continues
// with the files that parts or processes made. The caller holds the locks of all.
void JoinJournals(const std::filesystem::path& directory, const JobJournals& journals,
                  formats::FileSystem& fs);

}  // namespace dsv3::convert
