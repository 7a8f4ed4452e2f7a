#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/job/run_options.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"
#include "convert/stream/record.h"
#include "formats/manifest.h"

// The manifest that a conversion writes; formats/manifest.h has the model, docs/manifest.md the
// schema.
namespace dsv3::convert {

using formats::kManifestName;

// The file that a plan's job writes last and that says that all others are there: the manifest, or
// of a packed checkpoint packed.json.
std::string_view LastFileOf(const Plan& plan);

// The part of the manifest that names the job.
formats::ManifestJob ManifestJobOf(const Plan& plan, const ModelTensors& source,
                                   const RunOptions& run);

// The whole manifest. `job` is the text of its job; `records` are those of all written files
// (weight files, side files, index) by name; `side_digests` those of side sources by catalog
// position.
std::string ManifestText(const std::string& job, const Plan& plan, const ModelTensors& source,
                         const std::unordered_map<std::string, FileRecord>& records,
                         const std::unordered_map<std::uint32_t, Digests>& side_digests);

// The parts of a manifest that say whether a directory is a finished output, and of which job.
struct ManifestSummary {
  formats::ManifestJob job;
  std::string job_text;                      // of `job`
  std::vector<std::string> source_files;     // of the checkpoint that was converted
  std::vector<formats::ManifestFile> files;  // that the conversion made
  std::vector<formats::ManifestTensor> tensors;
};

// Reads the manifest in `directory`; nothing when there is none, or it is not one that a conversion
// wrote (one that names files outside the directory is not).
std::optional<ManifestSummary> ReadManifest(const std::filesystem::path& directory);
// The same of the file at `path`.
std::optional<ManifestSummary> ReadManifestAt(const std::filesystem::path& path);

}  // namespace dsv3::convert
