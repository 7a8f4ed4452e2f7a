#pragma once

#include <filesystem>

#include "convert/open/assembled_model.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {

// How a model lies in a directory of rank shards. Digests are known of all stored tensors, also
// where no origin reads a tensor, for it is a further copy.
struct RankShards : AssembledModel {
  // `tensors` and `source_files` are empty: the other members have their content.
  formats::RankLayout layout;
  // Whether nothing was dropped or became BF16 since the original was cut into ranks.
  bool is_original = true;
};

// Whether a directory holds rank shards: it has a layout.json and, unlike a checkpoint with a file
// of that name, no index.
bool IsRankDirectory(const std::filesystem::path& input);

// Whether a directory holds the files of DeepSeek's inference demo alone (model0-mp8.safetensors),
// and no layout.json that says how they were cut.
bool IsDemoDirectory(const std::filesystem::path& input);

// Throws Error (kBadInput) for such a directory or a file in it; it names `dsv3-reshard merge
// --config`.
void RefuseDemo(const std::filesystem::path& input);

}  // namespace dsv3::convert
