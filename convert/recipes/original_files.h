#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "convert/open/assembled_model.h"
#include "convert/open/open_model.h"
#include "formats/finding.h"
#include "formats/safetensors.h"

// The files of the quantised checkpoint that --scales-from names, whose form an output takes.
namespace dsv3::convert {

// The option's name, which marks the original's files in a catalog and in the manifest.
inline constexpr char kScalesFrom[] = "scales-from";

// A shard of the original, whose layout the output takes.
struct OriginalShard {
  std::string name;
  std::string header_bytes;  // as they stand in the file
  formats::SafetensorsHeader header;
};

struct OriginalFiles {
  std::filesystem::path directory;  // as it was given
  std::vector<OriginalShard> shards;
  bool needs_index = false;
  std::string index;  // its text as it is; empty where there is none
  std::string config_text;
  ModelConfig config;
  std::filesystem::path side_directory;  // of side_files
  std::vector<std::string> side_files;   // relative names, config.json among them
  // How its tensors are made, where they are in no file as they are; else nullptr.
  std::shared_ptr<const AssembledModel> assembled;
  formats::Findings warnings;  // of opening it; messages begin with "--scales-from DIR: "
};

// Opens the model of `directory`, with `base` as OpenOptions::base, shows it to `look`, which may
// throw, and appends it to the catalog. Throws Error: as OpenModel does for what is wrong with it;
// kBadInput where it has no shards of its own; kUsage where it is `output`. All messages begin with
// "--scales-from DIR: ".
OriginalFiles OpenOriginalFiles(const std::filesystem::path& directory,
                                const std::filesystem::path& base,
                                const std::filesystem::path& output,
                                const std::function<void(const OpenedModel& model)>& look,
                                Catalog& catalog);

// That beginning.
std::string OriginalPrefix(const std::filesystem::path& directory);

// The same beginning for a finding about the original that was made later.
formats::Finding OfOriginal(const OriginalFiles& original, formats::Finding finding);

// Throws Error (kBadInput): a tensor of the source, by its position, is not as in the original.
[[noreturn]] void FailUnlikeOriginal(const Catalog& catalog, std::uint32_t tensor,
                                     const std::string& problem, const OriginalFiles& original);

// Text of config.json: the original's where the source's is what a conversion to BF16 makes of it,
// else the source's with what that took out of the original's.
std::string ConfigLikeOriginal(const std::string& config_text, const OriginalFiles& original);

}  // namespace dsv3::convert
