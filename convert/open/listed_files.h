#pragma once

#include <filesystem>

#include "formats/finding.h"

// Whether the files are there that a list of rank shards or packed files names, by names and sizes
// alone.
namespace dsv3::convert {

// Of a directory of rank shards: "missing-shard" and "wrong-size" for files that layout.json lists
// and that are not there, or of another size; "unreadable-index" where it cannot be read. Throws
// Error (kIo).
formats::Findings FindMissingRankFiles(const std::filesystem::path& directory);

// The same of a packed checkpoint and packed.json.
formats::Findings FindMissingPackedFiles(const std::filesystem::path& directory);

}  // namespace dsv3::convert
