#pragma once

#include <filesystem>
#include <string_view>

#include "formats/checkpoint_files.h"
#include "formats/finding.h"

// Whether all files of a checkpoint are there, judged by index, file names, the hub's listing and
// config.json. Everything that judges a checkpoint calls these functions, so that all commands
// agree.
namespace dsv3::convert {

// Judges a directory by names, sizes and headers alone: the findings of FindUnfinished and, unless
// these say that a conversion is not finished, those of FindMissingFiles and FindMissingTensors
// (missing_tensors.h), "missing-shard" for what the index or param_name_map.json lists,
// "unreadable-shard" for shards that are cut off or none at all, and "unreadable-index",
// "malformed-index-entry" and "unsafe-shard-path" of the index; of rank shards and packed
// checkpoints what listed_files.h finds; of all what FindBrokenFiles finds (broken_files.h).
// Training checkpoints are judged by their own files, and a directory without a checkpoint by the
// hub's listing alone. `directory` is one that exists, of a hub cache the snapshot. Throws Error
// (kIo).
formats::Findings JudgeCompleteness(const std::filesystem::path& directory);

// Files that the directory of a checkpoint lacks, beside those that its index lists; errors:
// - "missing-shard", where there is no index: shards are numbered (-00001-of-00163), and some
//   numbers are not there; one finding for all of them.
// - "missing-file": the hub's listing of the download, or its records, name an index, a config.json
//   or, where there is no index in either, weights that are not there.
formats::Findings FindMissingFiles(const formats::CheckpointFiles& files);

// Adds the findings of `more`, except those that call a file or a tensor missing which `findings`
// calls missing already, or a file wrong or unreadable of which `findings` has an error.
void AddUnlessKnown(formats::Findings more, formats::Findings& findings);

// Throws Error where the findings do not allow checksums or a signature of the directory (`action`:
// "making checksums"): errors, and anything unfinished. kUsage for an unfinished conversion, else
// kBadInput.
void RequireComplete(const formats::Findings& findings, std::string_view action);

}  // namespace dsv3::convert
