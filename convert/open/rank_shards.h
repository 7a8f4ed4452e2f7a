#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/catalog/box.h"
#include "convert/open/assembled_model.h"
#include "formats/freed_shard.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {

// How a model lies in a directory of rank shards. Digests are known of all stored tensors, also
// where no origin reads a tensor, for it is a further copy.
struct RankShards : AssembledModel {
  // `tensors` and `source_files` are empty: the other members have their content.
  formats::RankLayout layout;
  // Whether nothing was dropped or became BF16 since the original was cut into ranks.
  bool is_original = true;

  // A box of a tensor of the model, and the stored tensor that origins read it from. Of scales for
  // other blocks, rows and columns are those of layout.recut_block.
  struct Slice {
    Box box;
    std::uint32_t stored = 0;
  };
  std::vector<std::vector<Slice>> slices;  // by position in the model's catalog

  // Bytes [begin, end) of a stored tensor that origins read, which other ranks hold, too: in
  // `stored` from byte `at` on.
  struct Copy {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    std::uint32_t stored = 0;
    std::uint64_t at = 0;
  };
  std::unordered_map<std::uint32_t, std::vector<Copy>> further_copies;  // by the one that is read
};

// Whether a directory holds rank shards: it has a layout.json and, unlike a checkpoint with a file
// of that name, no index.
bool IsRankDirectory(const std::filesystem::path& input);

// Whether a directory holds the files of DeepSeek's inference demo alone (model0-mp8.safetensors),
// and no layout.json that says how they were cut. Files that a run freed count as if they were
// there.
bool IsDemoDirectory(const std::filesystem::path& input,
                     const std::vector<formats::FreedShard>& freed = {});

// The names of the safetensors files in a directory, those that a run freed among them; sorted.
std::vector<std::string> DemoFiles(const std::filesystem::path& directory,
                                   const std::vector<formats::FreedShard>& freed);

// Throws Error (kBadInput) for a file in such a directory.
void RefuseDemoFile(const std::filesystem::path& input);

}  // namespace dsv3::convert
