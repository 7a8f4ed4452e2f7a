#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/finding.h"
#include "formats/freed_shard.h"
#include "formats/left_behind.h"
#include "formats/safetensors.h"
#include "formats/shard_index.h"

// A Hugging Face checkpoint as a set of files: which shards, which index, which side files.
namespace dsv3::formats {

inline constexpr const char* kConfigName = "config.json";
// Quantisation configs that list every module are the longest, with some megabytes.
inline constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{64} << 20;

struct ShardFile {
  std::string name;            // relative to the directory, with '/' between components
  std::filesystem::path path;  // to open; a symlink is followed
  std::uint64_t bytes = 0;
  std::int64_t mtime_ns = 0;  // of the symlink's target
  SafetensorsHeader header;   // empty when the file could not be read (see findings)
};

struct CheckpointFiles {
  enum class Form {
    kIndexed,    // shards named by model.safetensors.index.json
    kSingle,     // one safetensors file and no index
    kUnindexed,  // several safetensors files and no index
  };
  std::filesystem::path directory;  // the one that holds config and side files; absolute
  Form form = Form::kSingle;
  std::vector<ShardFile> shards;    // sorted by name
  std::optional<ShardIndex> index;  // kIndexed only
  // Regular files that are not weights, relative names, sorted: config, tokenizer, code, README,
  // licence, also in subdirectories. Left out: the index, *.safetensors, names that begin with
  // ".git" or ".cache" at any level, SHA256SUMS, checkpoint.manifest.json, model.sig, and the
  // files that this toolkit keeps during a run (names that begin with ".dsv3-" or end with
  // ".partial"). Symlinks to regular files count as files; symlinks to directories are not
  // followed. Where a file was opened by its name, only the files beside it, none in
  // subdirectories.
  std::vector<std::string> side_files;
  // Side files in the same sense that do not belong to a copy (KindOfLeftBehind); sorted by name.
  std::vector<LeftBehind> left_behind;
  // *.safetensors in the directory itself that the index does not list, sorted by name. Headers are
  // empty where they could not be read, which gives no finding.
  std::vector<ShardFile> unlisted;
  // Everything wrong or noteworthy with files, headers and index, ordered by file: missing-shard,
  // tensor-not-in-shard, tensor-not-in-index, tensor-in-two-shards, wrong-total-size (warning),
  // unlisted-shard (warning), no-index (warning), dead-link (warning), unreadable-shard,
  // shard-io-error, and the nonconformities of the headers. docs/safetensors.md lists them. With
  // FaultyIndex::kReport also unreadable-index and those of ParseShardIndex.
  Findings findings;

  bool HasConfig() const;  // config.json is among the side files
};

// How an index that cannot be read whole is reported: as an Error or as findings. With findings,
// the shards that it does list are used; where it lists none, the directory's *.safetensors files
// are the checkpoint.
enum class FaultyIndex { kThrow, kReport };

// Opens a checkpoint for reading headers only: no weights are read, headers are parsed in
// parallel. `path` is a directory, a safetensors file (config and side files come from beside it),
// or a Hugging Face hub cache (".../models--org--name", resolved through refs/main or its only
// snapshot). Throws Error: kUsage for a shard that an index beside it lists (names its directory);
// kBadInput for a path that does not exist, a directory without any checkpoint, or an index that
// cannot be parsed (with kReport: an empty one, or one without any shard beside it); kIo.
// Contradictions between files become findings. Shards of `freed` that are not on the disk are
// taken from there.
CheckpointFiles OpenCheckpointFiles(const std::filesystem::path& path,
                                    const std::vector<FreedShard>& freed = {},
                                    FaultyIndex faulty_index = FaultyIndex::kThrow);

// Throws the first finding of severity kError as Error (kBadInput), with the number of others
// added to the message. A finding from a failing disk or a missing permission is thrown as kIo.
void RequireConsistent(const CheckpointFiles& files);

// Reads a whole small file, at most `max_bytes`. Throws Error (kBadInput when missing, not a
// regular file or too large; kIo).
std::string ReadSmallFile(const std::filesystem::path& path, std::uint64_t max_bytes);

}  // namespace dsv3::formats
