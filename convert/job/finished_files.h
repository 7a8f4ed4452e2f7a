#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "convert/catalog/progress.h"
#include "convert/stream/record.h"
#include "formats/finding.h"

// Files that an earlier run of a job finished.
namespace dsv3::convert {

// The recorded files that are in the directory with the recorded sizes and digests; the digests are
// read again. A file that is missing or differs is left out, and where it differs a warning of kind
// "remade-file" is added to `warnings`. Reads run on
// `threads` threads. `sizes_only` serves a dry run. With `waits` (WaitsToBeVisible), files that are
// not visible yet count, too.
std::map<std::string, FileRecord> CheckFinishedFiles(
    const std::filesystem::path& directory, const std::map<std::string, FileRecord>& records,
    unsigned threads, bool sizes_only, formats::Findings& warnings, ProgressSink& progress,
    const StopToken& stop, bool waits = false);

// Reads a file. Returns whether size and digest are those of the record.
bool MatchesRecord(const std::filesystem::path& path, const FileRecord& record,
                   ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
