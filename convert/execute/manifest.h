#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "convert/execute/record.h"
#include "convert/job.h"
#include "convert/plan/catalog.h"
#include "convert/plan/plan.h"

// checkpoint.manifest.json: what a conversion made, of what, by which rule; docs/manifest.md has
// the schema. It holds nothing that differs between two runs of one job.
namespace dsv3::convert {

inline constexpr std::string_view kManifestName = "checkpoint.manifest.json";

// What names the job: the manifest's members up to "source", as JSON members without braces.
std::string ManifestJob(const Plan& plan, const Catalog& catalog, const RunOptions& run);

// The whole manifest. `records` are those of all written files (weight files, side files, index)
// by name; `side_digests` those of side sources by catalog position.
std::string ManifestText(const std::string& job, const Plan& plan, const Catalog& catalog,
                         const std::unordered_map<std::string, FileRecord>& records,
                         const std::unordered_map<std::uint32_t, Digests>& side_digests);

struct ManifestFile {
  std::string name;
  std::uint64_t bytes = 0;
};

// The parts of a manifest that tell whether a directory is a finished output, and of which job.
struct ManifestSummary {
  std::string job;  // equal to ManifestJob of the job that made it
  std::string recipe;
  std::vector<std::string> source_files;
  std::vector<ManifestFile> files;
};

// Reads the manifest in `directory`; nothing when there is none, or it is not one of ours (one that
// names files outside the directory is not).
std::optional<ManifestSummary> ReadManifest(const std::filesystem::path& directory);

}  // namespace dsv3::convert
