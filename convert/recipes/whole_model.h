#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/plan/catalog.h"
#include "convert/plan/expression.h"
#include "convert/source.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {

// A model as Hugging Face names its tensors, whatever form its files have: a checkpoint, or rank
// shards that are put together while they are read.
struct WholeModel {
  // Of the files that are read. With ranks: side files and catalog are those of the rank directory,
  // config and config_text those of the original.
  Source source;
  // The whole model's tensors in the original's order; files are the original's shards (of ranks:
  // with the digests of the headers that layout.json keeps, and without a path).
  // Extents mean something only where `layout` is empty, and then catalog and source.catalog are
  // equal.
  Catalog catalog;
  // How each tensor of `catalog` is read from source.catalog: Copy, Assemble, RecutScales.
  std::vector<ExpressionPtr> origins;
  // Text of the original index; nothing where there is none.
  std::optional<std::string> index;
  // Headers of the original shards without their lengths, by position in catalog.files().
  std::vector<std::string> headers;
  // Of rank shards:
  std::optional<formats::RankLayout> layout;
  // The digests that layout.json gives for the rank files' tensors, by position in source.catalog.
  std::unordered_map<std::uint32_t, std::string> digests;
  // Tensors of source.catalog that no origin reads: further copies of the same slices.
  std::vector<std::uint32_t> copies;
};

// Whether a directory holds rank shards: it has a layout.json.
bool IsRankDirectory(const std::filesystem::path& input);

// Opens a checkpoint (as OpenSource does) or a directory of rank shards. Of the latter it checks
// that each file of layout.json is there with the size and header that it tells and every tensor of
// its table, and that the slices give every tensor of the original headers exactly once (but for
// what was dropped; weights that became BF16 stand in `catalog` as such, without their scales).
// Throws Error as OpenSource does; kBadInput names the rank file and what to do.
WholeModel OpenWholeModel(const std::filesystem::path& input, const std::filesystem::path& output);

}  // namespace dsv3::convert
