#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/job/conversion_report.h"
#include "convert/job/run_options.h"
#include "convert/job/work_division.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"
#include "convert/stream/record.h"
#include "convert/stream/source_files.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

// Digests of the tensors that expressions use beside their streams, by catalog position.
using SideDigests = std::unordered_map<std::uint32_t, Digests>;

// The input of a recipe's preflight.
struct PreflightRun {
  SourceFiles& sources;
  // Tensors that an earlier run has looked at and whose files it freed.
  const SideDigests& known;
  // The weight files that this run makes, positions in Plan::files; the others are complete. All
  // sources of these are there.
  std::span<const std::size_t> to_make;
  // Adds a warning to the report and shows it.
  std::function<void(formats::Finding warning)> warn = {};
};

// A recipe's look at values before a byte is written: throws for what must not be converted, and
// finds what expressions of the files to be made need to know beforehand. It comes after the check
// of the files that an interrupted run finished. The result holds the digests of all side sources,
// whether or not their files are still to be made, those of `known` included.
using Preflight = std::function<SideDigests(const PreflightRun& run)>;

// Records of the complete files of a job, by name.
using FileRecords = std::unordered_map<std::string, FileRecord>;

// The functions and facts that a recipe adds to the run of its plan.
struct RecipeHooks {
  Preflight preflight = {};
  // Finds values that the expressions of these files need and that the preflight does not find,
  // such as scales from a first pass over the weights. Called after the preflight and before the
  // files are made, for all of them at once or, where processes share a run, for one portion after
  // the other.
  std::function<void(std::span<const std::size_t> files, SourceFiles& sources,
                     ProgressSink& progress)>
      prepare = {};
  // A file that describes all others, such as layout.json: written once all of them are complete,
  // after the index and before the manifest. Its text comes from their records and the job's
  // fingerprint. Empty name: none.
  std::string closing_name = {};
  std::function<std::string(const FileRecords& records, const std::string& fingerprint)>
      closing_text = {};
  // The text of the last file (LastFileOf), from the records; empty: the manifest.
  std::function<std::string(const FileRecords& records)> last_text = {};
  // The weight files that this run is asked for, positions in Plan::files; nothing: all. The job
  // ends with the run that finds all files complete.
  std::optional<std::vector<std::size_t>> selected = std::nullopt;
  // How runs that share the files (--part, MPI) best divide them; empty: each file alone.
  FileBundles bundles = {};
};

// Everything between a plan and a finished output directory, the same for every recipe: decides the
// state of the directory for this job (fresh, to be continued, finished), runs the preflight,
// checks the disk, writes side files, weights, index, closing file and manifest in that order, and
// cleans up. A run of selected files or of a part ends after the weights while others are missing.
// `report` comes with what the recipe knows and returns complete. Throws as RunConversion does.
ConversionReport RunPlan(const ModelTensors& source, const Plan& plan,
                         const std::filesystem::path& output, const RunOptions& run,
                         const RecipeHooks& hooks, ConversionReport report,
                         formats::FileSystem& file_system, ProgressSink& progress,
                         const StopToken& stop);

}  // namespace dsv3::convert
