#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>

#include "convert/execute/record.h"
#include "convert/execute/source_files.h"
#include "convert/job.h"
#include "convert/plan/plan.h"
#include "convert/source.h"

namespace dsv3::convert {

// Digests of the tensors that expressions use beside their streams, by catalog position.
using SideDigests = std::unordered_map<std::uint32_t, Digests>;

// A recipe's look at values before a byte is written: throws for what must not be converted.
// `known` are tensors that an earlier run has looked at and whose files it freed; the result holds
// them too.
using Preflight = std::function<SideDigests(SourceFiles& sources, const SideDigests& known)>;

// Everything between a plan and a finished output directory, the same for every recipe: decides
// what the directory is to this job (fresh, to be continued, finished), checks the disk, runs the
// preflight, writes side files, weights, index and manifest in that order, and cleans up.
// `report` comes with what the recipe knows and returns complete. Throws as ConvertFp8ToBf16 does.
ConversionReport RunPlan(const Source& source, const Plan& plan,
                         const std::filesystem::path& output, const RunOptions& run,
                         const Preflight& preflight, ConversionReport report,
                         formats::FileSystem& file_system, ProgressSink& progress,
                         const StopToken& stop);

}  // namespace dsv3::convert
