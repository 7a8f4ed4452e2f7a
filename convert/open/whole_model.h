#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/open/source.h"
#include "convert/plan/expression.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {

// A model as Hugging Face names its tensors, whatever form its files have: a checkpoint, or rank
// shards that are put together while they are read.
struct WholeModel {
  // Of the files that are read. With ranks: catalog and side files are those of the rank directory
  // (a tensor is named FILE/TENSOR), config and config_text those of the whole model.
  Source source;
  // The whole model's tensors in its files' order; files are its shards (of ranks: with the digests
  // of their headers and without a path). Extents mean something only where `layout` is empty, and
  // then catalog and source.catalog are equal.
  Catalog catalog;
  // How each tensor of `catalog` is read from source.catalog: Copy, Assemble, RecutScales.
  std::vector<ExpressionPtr> origins;
  // Text of the index; nothing where there is none.
  std::optional<std::string> index;
  // Headers of the shards without their lengths, by position in catalog.files().
  std::vector<std::string> headers;
  // Whether nothing was dropped or became BF16 since the original was cut into ranks.
  bool is_original = true;
  // Of rank shards; `tensors` and `source_files` are empty, for all that they tell stands here.
  std::optional<formats::RankLayout> layout = std::nullopt;
  // The digests that layout.json gives for the rank files' tensors, by position in source.catalog:
  // of all of them, also where no origin reads a tensor, for it is a further copy.
  std::unordered_map<std::uint32_t, std::string> digests = {};
};

// The bytes before a file's data: the header's length and the header, one of WholeModel::headers.
std::string WithLength(const std::string& header);

// Whether a directory holds rank shards: it has a layout.json and, unlike a checkpoint with a file
// of that name, no index.
bool IsRankDirectory(const std::filesystem::path& input);

// Throws Error (kBadInput) for rank shards where only a checkpoint will do; it names
// `dsv3-reshard merge`.
void RefuseRankDirectory(const std::filesystem::path& input);

// Opens a checkpoint (as OpenSource does) or a directory of rank shards.
//
// Of rank shards it checks that each file of layout.json is there with the size and header that it
// tells and every tensor of its table, that side files have their digests, and that the slices give
// every tensor of the original headers exactly once, but for what was dropped. The model is then
// the original, its headers, index and config included. Where tensors were dropped or became BF16,
// the model is what is held: in the original's shards, under new headers and a new index, with a
// config that tells of it; weights that became BF16 have no scales.
//
// Throws Error as OpenSource does; kBadInput names the rank file and what to do.
WholeModel OpenWholeModel(const std::filesystem::path& input);

}  // namespace dsv3::convert
