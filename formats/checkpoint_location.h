#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

// Where a checkpoint's files are; an internal part of checkpoint_files.h.
namespace dsv3::formats {

struct CheckpointLocation {
  std::filesystem::path directory;  // absolute
  // Set when one safetensors file was asked for by name.
  std::optional<std::string> file_name;
};

// Finds out what the user's path means: a directory, a file, or a hub cache (resolved to its
// snapshot). Throws Error (kBadInput for what does not exist or is neither file nor directory).
CheckpointLocation LocateCheckpoint(const std::filesystem::path& path);

struct CheckpointListing {
  std::vector<std::string> safetensors;  // names of *.safetensors files, sorted
  std::vector<std::string> side_files;   // CheckpointFiles::side_files and left_behind
  std::vector<std::string> dead_links;   // symlinks whose target is missing or a loop, sorted
  std::vector<std::string> leftovers;    // files that this toolkit keeps during a run, sorted
};

// Names of the *.safetensors entries of whatever type in the directory itself, sorted; without
// those that are never weights of a model (KindOfLeftBehind).
std::vector<std::string> ListSafetensors(const std::filesystem::path& directory);

// Lists the directory, with its subdirectories if `recursive`. Throws Error (kIo).
CheckpointListing ListCheckpoint(const std::filesystem::path& directory, bool recursive);

// Throws the Error (kBadInput) for a directory that holds no safetensors files of a model, which
// says what it holds instead.
[[noreturn]] void FailNoCheckpoint(const std::filesystem::path& directory);

// Throws the Error (kBadInput) for an adapter, a directory or a file, where a model is asked for.
[[noreturn]] void FailAdapter(const std::filesystem::path& path);

}  // namespace dsv3::formats
