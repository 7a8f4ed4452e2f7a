#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/job/journal.h"
#include "convert/job/manifest.h"
#include "convert/job/output_state.h"

// Which files of an output directory a job with --overwrite replaces.
namespace dsv3::convert {

// The size of a regular file, links followed; nothing where there is none.
std::optional<std::uint64_t> FileBytes(const std::filesystem::path& path);

// Throws Error (kUsage): "DIRECTORY: message".
[[noreturn]] void RefuseOutput(const std::filesystem::path& directory, const std::string& message);

// The files that the job writes, that are there already, and that are not in `known`.
std::vector<std::string> FilesInTheWay(const std::filesystem::path& directory, const OutputJob& job,
                                       const std::vector<std::string>& known);

// Throws Error (kUsage) where a file of this job cannot take its place: a directory has its name, a
// directory on its way is a file or a link, or what would be replaced is a file of the source.
void RequireReplaceable(const std::filesystem::path& directory, const OutputJob& job);

// What jobs that ended in a directory say of their outputs, by the name of the last file; nothing
// where there was no such job.
using EndedJobs = std::vector<std::pair<std::string_view, std::optional<ManifestSummary>>>;

// The files of an output directory that concern a job with --overwrite which begins anew. Sorted.
struct FilesToReplace {
  // All files whose names it writes, and those of earlier jobs of this toolkit that nobody changed.
  std::vector<std::string> replaced;
  // Files of earlier jobs that it does not write and that were changed since: they have another
  // size than their manifest or journal says; or they are newer than it, and have another digest or
  // none was recorded.
  std::vector<std::string> changed;
};
FilesToReplace FindFilesToReplace(const std::filesystem::path& directory, const OutputJob& job,
                                  const EndedJobs& ended, const JobJournals& journals,
                                  ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
