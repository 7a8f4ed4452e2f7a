#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/name_pattern.h"
#include "convert/packing/pull_weights.h"
#include "convert/plan/plan_option.h"
#include "convert/plan/planned_file.h"
#include "formats/left_behind.h"

namespace dsv3::convert {

// A small file: copied from the source, or made by the recipe.
struct PlannedSideFile {
  std::string name;              // relative, '/' between components
  std::filesystem::path source;  // empty when `content` holds the bytes
  std::string content;
  // The digest, hex, that a copied file must have; empty: not known.
  std::string sha256 = {};
};

// The files that a job writes, fixed before a byte moves.
struct Plan {
  std::string recipe;
  std::vector<PlanOption> options;
  // The members that the recipe removed from config.json, for the way back: member path → JSON
  // value.
  std::vector<std::pair<std::string, std::string>> removed_config;
  // Tensors of a training checkpoint that are not of the model, by the patterns of their names.
  PatternCounts not_read;
  std::vector<PlannedFile> files;                // sorted by name
  std::vector<PlannedSideFile> side_files;       // config.json among them; the index is not
  std::vector<formats::LeftBehind> left_behind;  // side files of the source that are not copied
  std::string index;  // the shard index's text; empty when none is written
  // Every tensor is a slice, and one read of an origin serves all files (ExecuteSharedReads).
  bool shared_reads = false;
  // The files take another form and size while they are made (PackedFileWriter): without `pull`
  // that of packed files, and packed.json takes the manifest's place. Every tensor is a copy.
  bool packed = false;
  // With `packed`: the files become weight deltas (PullFileWriter) against the tensors' bases.
  std::optional<PullEncoding> pull = std::nullopt;
  // The manifest that is copied in place of one that says how the files were made; empty: that one
  // is written. Of a job that gives back every file that there was.
  std::filesystem::path manifest = {};
  std::string manifest_sha256 = {};  // that it must have; empty: not known
  // XXH3-128, hex, that the bytes of source tensors must have, by catalog position: checked while
  // they are streamed. Then no file becomes visible before all were checked.
  std::unordered_map<std::uint32_t, std::string> source_digests;
};

// The files as they are planned, as a catalog: tensors in the order of the files.
Catalog CatalogOf(const Plan& plan);

// The index over the plan's files, as text.
std::string PlanIndex(const Plan& plan);

// XXH3-128 over everything that decides the output's bytes: recipe, options, every header with its
// expressions' rules, parameters and sources. The fingerprint names a job: a run may continue only
// a job with the same fingerprint.
std::string PlanFingerprint(const Plan& plan, const Catalog& catalog);

}  // namespace dsv3::convert
