#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "convert/model/model_config.h"
#include "convert/plan/catalog.h"
#include "formats/checkpoint_files.h"
#include "formats/finding.h"

namespace dsv3::convert {

// A checkpoint that a conversion reads: consistent, with a config, and complete as far as the
// config tells.
struct Source {
  std::filesystem::path directory;      // of config and side files
  std::vector<std::string> side_files;  // relative names, config.json among them
  // The form in which a reader finds the weights: an index, or model.safetensors alone.
  bool needs_index = false;
  std::string config_text;
  ModelConfig config;
  Catalog catalog;
  formats::Findings warnings;
};

// Opens `input` (see formats::OpenCheckpointFiles; shards that an unfinished run freed are known
// from `output`). Throws Error: kUsage when `output` and the input's directory are one or lie
// inside each other, or no directory can be made there; kBadInput for whatever is wrong with files,
// index, headers or config, and for tensors that the config predicts and that are missing or of
// another shape; kIo.
Source OpenSource(const std::filesystem::path& input, const std::filesystem::path& output);

// Throws Error (kUsage) unless `output` and the input lie apart and a directory can be made there.
// `directory` is that of the input's files: for a hub cache another one than `input`.
void RequirePlaces(const std::filesystem::path& input, const std::filesystem::path& directory,
                   const std::filesystem::path& output);

// Throws Error (kBadInput) for tensors that the config predicts and that are missing or of another
// shape. Adds warnings to `warnings`.
void RequireModel(const ModelConfig& config, const Catalog& catalog, formats::Findings& warnings);

// An index may name any file. A shard keeps its name in the output, where some names are taken:
// throws Error (kBadInput) for these.
void CheckShardNames(const formats::CheckpointFiles& files);

// The text of config.json. Throws Error (kBadInput) when there is none, kIo.
std::string ReadConfigText(const formats::CheckpointFiles& files);

// Throws Error (kUsage) when `output` and the directory of an input are one or lie inside each
// other.
void RequireApart(const std::filesystem::path& input_directory,
                  const std::filesystem::path& output);

// Whether a shard must not have this name, because files of this toolkit's own have it.
bool IsReservedName(std::string_view name);

// The path without links and dots, comparable even where it does not exist yet. Throws Error:
// kUsage where there can be no such path (a name too long, a loop of links), kIo.
std::filesystem::path CanonicalPath(const std::filesystem::path& path);

}  // namespace dsv3::convert
