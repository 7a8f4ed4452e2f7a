#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
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

// Opens `input` (see formats::OpenCheckpointFiles; shards of `freed` are known by their saved
// headers alone). Throws Error: kBadInput for whatever is wrong with files, index, headers or
// config, and for tensors that the config predicts and that are missing or of another shape; kIo.
Source OpenSource(const std::filesystem::path& input,
                  const std::vector<formats::FreedShard>& freed = {});

// Throws Error (kBadInput) for tensors that the config predicts and that are missing or of another
// shape. Adds warnings to `warnings`.
void RequireModel(const ModelConfig& config, const Catalog& catalog, formats::Findings& warnings);

// An index may name any file. A shard keeps its name in the output, where some names are taken:
// throws Error (kBadInput) for these.
void CheckShardNames(const formats::CheckpointFiles& files);

// The text of config.json. Throws Error (kBadInput) when there is none, kIo.
std::string ReadConfigText(const formats::CheckpointFiles& files);

// Whether a shard must not have this name, because files of this toolkit's own have it.
bool IsReservedName(std::string_view name);

}  // namespace dsv3::convert
