#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "convert/plan/catalog.h"
#include "convert/plan/expression.h"
#include "formats/safetensors.h"

namespace dsv3::convert {

// A tensor of an output file: where its bytes go and how they are made.
struct PlannedTensor {
  formats::SafetensorsTensor entry;
  ExpressionPtr expression;
};

// A weight file to be written; its every byte's place is fixed.
struct PlannedFile {
  std::string name;
  std::vector<PlannedTensor> tensors;  // in file order
  std::uint64_t data_offset = 0;
  std::uint64_t bytes = 0;
  // XXH3-128 of the first data_offset bytes, hex.
  std::string header_digest;
};

// The first PlannedFile::data_offset bytes.
std::string FileHeader(const PlannedFile& file);

// A small file: copied from the source, or made by the recipe.
struct PlannedSideFile {
  std::string name;              // relative, '/' between components
  std::filesystem::path source;  // empty when `content` is it
  std::string content;
};

// An option that decides output bytes, as it stands in the manifest; `json` is a JSON value.
struct PlanOption {
  std::string name;
  std::string json;
};

// What will be written, fixed before a byte moves.
struct Plan {
  std::string recipe;
  std::vector<PlanOption> options;
  // What the recipe took out of config.json, for the way back: member path → JSON value.
  std::vector<std::pair<std::string, std::string>> removed_config;
  std::vector<PlannedFile> files;           // sorted by name
  std::vector<PlannedSideFile> side_files;  // config.json among them; the index is not
  std::string index;                        // the shard index's text; empty when none is written
  std::uint64_t total_size = 0;             // tensor bytes
};

// Lays a file out: tensors take the reference writer's order, header and offsets are fixed.
PlannedFile PlanFile(std::string name, std::vector<std::pair<std::string, ExpressionPtr>> tensors);

// The index over the plan's files, as text.
std::string PlanIndex(const Plan& plan);

// XXH3-128 over everything that decides the output's bytes: recipe, options, every header with its
// expressions' rules and sources. Names a job: a run may continue only what has its fingerprint.
std::string PlanFingerprint(const Plan& plan, const Catalog& catalog);

}  // namespace dsv3::convert
