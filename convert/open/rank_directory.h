#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "convert/catalog/catalog.h"
#include "formats/finding.h"
#include "formats/rank_layout.h"

// The files of a directory of rank shards. Internal to OpenModel and to the check of rank shards.
namespace dsv3::convert {

// Rank files that agree with layout.json.
struct RankDirectory {
  std::filesystem::path directory;
  formats::RankLayout layout;
  // Tensors of several files share a name, so each is called FILE/TENSOR here. One whose parts have
  // other rows than its own shape gives (an engine's key may be a matrix that is stored flat) has
  // the shape that gives the parts' rows.
  Catalog catalog;
  // Positions in layout.tensors, by position in the catalog.
  std::vector<std::uint32_t> layout_tensors;
  formats::Findings warnings;
};

// Reads layout.json and the headers of the files that it lists, in parallel, and digests the side
// files that it lists. Throws Error: kBadInput for a layout.json that is malformed, for files that
// are missing, of another size or with another header, for tensors that contradict layout.json, and
// for side files with another digest; kIo. Files of `freed` that are not on the disk are taken from
// there. *.safetensors files that layout.json does not list give
// warnings.
RankDirectory OpenRankDirectory(const std::filesystem::path& directory,
                                const std::vector<formats::FreedShard>& freed = {});
// The same for a check: all faults of files are added to `faults` (docs/verify.md lists the kinds),
// and the catalog lacks the tensors of files that have any.
RankDirectory OpenRankDirectory(const std::filesystem::path& directory, formats::Findings& faults);

}  // namespace dsv3::convert
