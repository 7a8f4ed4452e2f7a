#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/plan/expression.h"
#include "formats/left_behind.h"
#include "formats/safetensors.h"

namespace dsv3::convert {

// A tensor of an output file: where its bytes go and how they are made.
struct PlannedTensor {
  static constexpr std::uint32_t kNone = UINT32_MAX;

  formats::SafetensorsTensor entry;
  ExpressionPtr expression;
  // Positions in PlannedFile::tensors, or kNone: of the tensor that evaluating this one makes as
  // well, and of the one whose evaluation makes this one.
  std::uint32_t by_product = kNone;
  std::uint32_t maker = kNone;
};

// A weight file to be written; its every byte's place is fixed.
struct PlannedFile {
  std::string name;
  std::vector<PlannedTensor> tensors;  // in file order
  std::uint64_t data_offset = 0;
  std::uint64_t bytes = 0;
  // XXH3-128 of the first data_offset bytes, hex.
  std::string header_digest;
  // The first data_offset bytes where they are those of another file; empty where they follow from
  // the tensors.
  std::string given_header;
  formats::SafetensorsMetadata metadata;
  // Of plans with shared_reads: files of one group advance together, groups in ascending order.
  std::uint32_t group = 0;
};

// The first PlannedFile::data_offset bytes.
std::string FileHeader(const PlannedFile& file);

// A small file: copied from the source, or made by the recipe.
struct PlannedSideFile {
  std::string name;              // relative, '/' between components
  std::filesystem::path source;  // empty when `content` holds the bytes
  std::string content;
};

// An option that decides output bytes, as the manifest records it; `json` is a JSON value.
struct PlanOption {
  std::string name;
  std::string json;
};

// The files that a job writes, fixed before a byte moves.
struct Plan {
  std::string recipe;
  std::vector<PlanOption> options;
  // The members that the recipe removed from config.json, for the way back: member path → JSON
  // value.
  std::vector<std::pair<std::string, std::string>> removed_config;
  std::vector<PlannedFile> files;                // sorted by name
  std::vector<PlannedSideFile> side_files;       // config.json among them; the index is not
  std::vector<formats::LeftBehind> left_behind;  // side files of the source that are not copied
  std::string index;             // the shard index's text; empty when none is written
  std::uint64_t total_size = 0;  // tensor bytes
  // Every tensor is a slice, and one read of an origin serves all files (ExecuteSharedReads).
  bool shared_reads = false;
  // XXH3-128, hex, that the bytes of source tensors must have, by catalog position: checked while
  // they are streamed. Then no file becomes visible before all were checked.
  std::unordered_map<std::uint32_t, std::string> source_digests;
};

using NamedExpressions = std::vector<std::pair<std::string, ExpressionPtr>>;

// transformers refuses a PyTorch checkpoint whose files do not say so: {"format": "pt"}.
const formats::SafetensorsMetadata& PtMetadata();

// Lays a file out: header and offsets are fixed. Tensors take the reference writer's order, but
// by-products whose bytes are not expected go behind all others where that leaves them aligned to
// their elements: then the file can be digested while it is written. An expression and its
// by-product must both be among `tensors` (Error kInternal otherwise).
PlannedFile PlanFile(std::string name, NamedExpressions tensors,
                     const formats::SafetensorsMetadata& metadata = PtMetadata());

// The same with the layout of a file that exists: `header_bytes` are its bytes before the data,
// unchanged, and `header` is their parsed form. Each of its tensors is made by the expression of
// its name. The caller has checked that names, dtypes and shapes agree (Error kInternal otherwise).
PlannedFile PlanFileLike(std::string name, std::string header_bytes,
                         const formats::SafetensorsHeader& header, NamedExpressions tensors);

// The index over the plan's files, as text.
std::string PlanIndex(const Plan& plan);

// XXH3-128 over everything that decides the output's bytes: recipe, options, every header with its
// expressions' rules, parameters and sources. The fingerprint names a job: a run may continue only
// a job with the same fingerprint.
std::string PlanFingerprint(const Plan& plan, const Catalog& catalog);

}  // namespace dsv3::convert
