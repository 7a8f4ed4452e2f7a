#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/plan/expression.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {

// How a model lies in a directory of rank shards.
struct RankShards {
  // The rank files and their tensors, each called FILE/TENSOR.
  Catalog stored;
  // How each tensor of the model is made of stored ones: Assemble, RecutScales; by position in the
  // model's catalog.
  std::vector<ExpressionPtr> origins;
  // `tensors` and `source_files` are empty: the other members of RankShards have their content.
  formats::RankLayout layout;
  // The XXH3-128 digests that layout.json gives for the stored tensors, by position in `stored`: of
  // all of them, also where no origin reads a tensor, for it is a further copy.
  std::unordered_map<std::uint32_t, std::string> digests;
  // Whether nothing was dropped or became BF16 since the original was cut into ranks.
  bool is_original = true;
  // Of the model's shards: the text of the index (nothing where there is none), and the headers
  // without their lengths, by position in the model's catalog.files().
  std::optional<std::string> index;
  std::vector<std::string> headers;
};

// Whether a directory holds rank shards: it has a layout.json and, unlike a checkpoint with a file
// of that name, no index.
bool IsRankDirectory(const std::filesystem::path& input);

// Whether a directory holds the files of DeepSeek's inference demo alone (model0-mp8.safetensors),
// and no layout.json that says how they were cut.
bool IsDemoDirectory(const std::filesystem::path& input);

// Throws Error (kBadInput) for such a directory; it names `dsv3-reshard merge --config`.
void RefuseDemoDirectory(const std::filesystem::path& input);

}  // namespace dsv3::convert
