#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "convert/job/conversion_report.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

// Whether a job left something in its output directory that it kept for its own use: journals,
// headers of freed shards, or locks without their runs, which RunLocks takes over and removes.
bool HasLeftovers(const std::filesystem::path& output);

// Removes them, the locks excepted. The caller holds the locks.
void RemoveLeftovers(const std::filesystem::path& output, formats::FileSystem& file_system);

// After --delete-source-shards, a finished command that is run again finds no source. Returns the
// report that there is nothing to do when `output` is the whole output of `recipe` and none of the
// shards that its manifest names is left in `input`. Removes the files that the job kept for its
// own use, if the job ended before it could.
std::optional<ConversionReport> FinishedWithoutSource(const std::filesystem::path& input,
                                                      const std::filesystem::path& output,
                                                      const std::string& recipe,
                                                      formats::FileSystem& file_system);

}  // namespace dsv3::convert
