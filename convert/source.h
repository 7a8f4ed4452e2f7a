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
