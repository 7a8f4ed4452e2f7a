#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "convert/job/journal.h"
#include "convert/job/manifest.h"
#include "convert/job/output_state.h"

// Refusals of an output directory that another job began or made: they say what differs, how to
// go on without a loss, and last what --overwrite discards.
namespace dsv3::convert {

// Whether a run of the job `now` may continue what `before` describes: the same recipe, options,
// plan and source files. The source may lie in another directory.
bool IsSameJob(const JournalHead& before, const JournalHead& now);

// Throws Error for a run of another job: kBadInput where its recipe is the same and its source
// differs, else kUsage. `journals` are those of the directory.
[[noreturn]] void RefuseBegun(const std::filesystem::path& directory, const BegunRun& run,
                              const JobJournals& journals, const OutputJob& job);

// Throws Error (kUsage) for the finished output of another job.
[[noreturn]] void RefuseFinished(const std::filesystem::path& directory,
                                 const ManifestSummary& manifest, const OutputJob& job);

// Throws Error (kUsage) for the finished output of the same job on another source, "IN" or "base":
// `tensor` of `file` has other bytes.
[[noreturn]] void RefuseOtherSource(const std::filesystem::path& directory,
                                    const ManifestSummary& manifest, std::string_view source,
                                    const std::string& file, const std::string& tensor);

}  // namespace dsv3::convert
