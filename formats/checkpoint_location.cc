#include "formats/checkpoint_location.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include "formats/adapter_name.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/io/dead_link.h"
#include "formats/io/existence.h"
#include "formats/left_behind.h"
#include "formats/message_text.h"
#include "formats/shard_index.h"
#include "formats/unfinished_job.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void FailPath(ErrorCode code, const fs::path& path, std::string_view problem) {
  throw Error(code, fmt::format("{}: {}", ShownPath(path), problem),
              {.file = path.string(), .tensor = {}});
}

// Whether a file of this name, without its directory, can hold weights of the model: no adapter, no
// optimizer, and none of the small files that macOS leaves beside each file.
bool IsSafetensors(std::string_view name) {
  return name.ends_with(".safetensors") && !KindOfLeftBehind(name);
}

bool IsLeftover(std::string_view name) {
  return name.starts_with(".dsv3-") || name.ends_with(".partial");
}

bool IsLeftOutDirectoryOrFile(std::string_view name) {
  return name.starts_with(".git") || name.starts_with(".cache") || name.starts_with(".dsv3-");
}

// Weights, and files that describe exactly the files beside them and would be stale in a copy.
bool IsNoSideFile(std::string_view name) {
  constexpr std::array<std::string_view, 4> kNames = {kShardIndexName, "SHA256SUMS",
                                                      "checkpoint.manifest.json", "model.sig"};
  return IsLeftOutDirectoryOrFile(name) || IsSafetensors(name) || IsLeftover(name) ||
         std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

std::vector<std::string> SubdirectoryNames(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_directory(ignored)) names.push_back(entry->path().filename().string());
  }
  if (error) throw IoError("list", directory.string(), error.value());
  std::sort(names.begin(), names.end());
  return names;
}

std::string Trimmed(std::string text) {
  const std::size_t end = text.find_last_not_of(" \t\r\n");
  text.resize(end == std::string::npos ? 0 : end + 1);
  return text;
}

// What to do where a cache does not say which snapshot is meant.
std::string AdviceOnSnapshots(const fs::path& snapshots) {
  std::error_code error;
  const std::vector<std::string> names = fs::is_directory(snapshots, error)
                                             ? SubdirectoryNames(snapshots)
                                             : std::vector<std::string>();
  if (names.empty()) return "download the model again";
  return fmt::format("the cache holds {}: give {}, or download the model again",
                     names.size() == 1 ? "another" : fmt::format("{} others", names.size()),
                     names.size() == 1 ? ShownPath(snapshots / names[0])
                                       : "one of the directories in " + ShownPath(snapshots));
}

// The snapshot that is used for a hub cache's directory "models--org--name".
fs::path ResolveHubCache(const fs::path& cache) {
  const fs::path snapshots = cache / "snapshots";
  const fs::path main = cache / "refs" / "main";
  std::error_code error;
  if (Exists(main)) {
    constexpr std::uint64_t kLongestRef = 4096;
    const std::string commit = Trimmed(ReadSmallFile(main, kLongestRef));
    if (commit.empty() || commit[0] == '.' || commit.find_first_of("/\\") != std::string::npos) {
      FailPath(ErrorCode::kBadInput, main,
               "it does not name a snapshot of the cache; " + AdviceOnSnapshots(snapshots));
    }
    if (!fs::is_directory(snapshots / commit, error)) {
      FailPath(ErrorCode::kBadInput, main,
               fmt::format("it names the snapshot {}, which is not in the cache; {}",
                           QuoteForMessage(commit), AdviceOnSnapshots(snapshots)));
    }
    return snapshots / commit;
  }
  const std::vector<std::string> names = SubdirectoryNames(snapshots);
  if (names.size() == 1) return snapshots / names[0];
  FailPath(ErrorCode::kBadInput, cache,
           names.empty()
               ? "this hub cache holds no snapshot; download the model again"
               : fmt::format("this hub cache has no refs/main and holds {} snapshots; give one of "
                             "the directories in {}",
                             names.size(), ShownPath(snapshots)));
}

bool IsHubCache(const fs::path& directory) {
  std::error_code error;
  return fs::is_directory(directory / "snapshots", error) && !Exists(directory / kShardIndexName) &&
         ListSafetensors(directory).empty();
}

// A directory below this one in which safetensors files lie, as a whole path; empty where there is
// none within two levels. Of several, the first by name.
fs::path CheckpointBelow(const fs::path& directory) {
  constexpr int kLevels = 2;
  fs::path found;
  std::error_code error;
  fs::recursive_directory_iterator entry(directory, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    std::error_code ignored;
    if (entry->is_directory(ignored)) {
      if (entry.depth() >= kLevels || IsLeftOutDirectoryOrFile(name)) {
        entry.disable_recursion_pending();
      }
    } else if (IsSafetensors(name) && !IsLeftOutDirectoryOrFile(name)) {
      const fs::path below = entry->path().parent_path();
      if (found.empty() || below < found) found = below;
    }
  }
  return found;
}

}  // namespace

CheckpointLocation LocateCheckpoint(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    if (const fs::path making = UnfinishedJobOf(path); !making.empty()) {
      FailPath(
          ErrorCode::kBadInput, path,
          "there is no such file yet: " + DescribeUnfinishedJob(*ReadJobProgress(making), making));
    }
    const std::string dead = DeadLinkProblem(path);
    FailPath(ErrorCode::kBadInput, path,
             dead.empty() ? "there is no such file or directory; correct the path"
                          : fmt::format("it is {}; correct the path, or repair the link", dead));
  }
  if (error == std::errc::too_many_symbolic_link_levels) {
    FailPath(ErrorCode::kBadInput, path, "its symlinks form a loop; correct the links or the path");
  }
  if (error) throw IoError("open", path.string(), error.value());
  // A name may end with '/', which would leave an empty last component.
  fs::path absolute = fs::absolute(path).lexically_normal();
  if (!absolute.has_filename()) absolute = absolute.parent_path();
  if (status.type() == fs::file_type::directory) {
    return {IsHubCache(absolute) ? ResolveHubCache(absolute) : absolute, std::nullopt};
  }
  if (status.type() != fs::file_type::regular) {
    FailPath(ErrorCode::kBadInput, path,
             "it is neither a regular file nor a directory; give a checkpoint's directory or a "
             "safetensors file");
  }
  if (absolute.filename() == kShardIndexName) {
    FailPath(ErrorCode::kUsage, path,
             fmt::format("it is the index of a checkpoint; give the directory {} instead",
                         ShownPath(absolute.parent_path())));
  }
  return {absolute.parent_path(), absolute.filename().string()};
}

std::vector<std::string> ListSafetensors(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (IsSafetensors(name) && !IsLeftOutDirectoryOrFile(name)) names.push_back(std::move(name));
  }
  if (error) throw IoError("list", directory.string(), error.value());
  std::sort(names.begin(), names.end());
  return names;
}

CheckpointListing ListCheckpoint(const fs::path& directory, bool recursive) {
  CheckpointListing listing;
  std::error_code error;
  fs::recursive_directory_iterator entry(directory, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    std::error_code ignored;
    const bool is_link = entry->is_symlink(ignored);
    if (!is_link && entry->is_directory(ignored)) {
      if (!recursive || IsLeftOutDirectoryOrFile(name)) entry.disable_recursion_pending();
      continue;
    }
    const std::string relative = entry->path().lexically_relative(directory).generic_string();
    if (IsSafetensors(name)) {
      if (!IsLeftOutDirectoryOrFile(name)) listing.safetensors.push_back(relative);
      continue;
    }
    if (IsLeftover(name)) listing.leftovers.push_back(relative);
    if (IsNoSideFile(name)) continue;
    std::error_code status_error;
    const fs::file_status status = entry->status(status_error);
    if (status.type() == fs::file_type::regular) {
      listing.side_files.push_back(relative);
    } else if (is_link && (status.type() == fs::file_type::not_found ||
                           status_error == std::errc::too_many_symbolic_link_levels)) {
      listing.dead_links.push_back(relative);
    } else if (status_error && status.type() != fs::file_type::not_found) {
      throw IoError("look at", entry->path().string(), status_error.value());
    }
  }
  if (error) throw IoError("list", directory.string(), error.value());
  std::sort(listing.safetensors.begin(), listing.safetensors.end());
  std::sort(listing.side_files.begin(), listing.side_files.end());
  std::sort(listing.dead_links.begin(), listing.dead_links.end());
  std::sort(listing.leftovers.begin(), listing.leftovers.end());
  return listing;
}

void FailAdapter(const fs::path& path) {
  FailPath(
      ErrorCode::kBadInput, path,
      "this is an adapter (adapter_config.json, adapter_model.*): it holds changes to a model, "
      "not the model itself; merge it into the model that its adapter_config.json names as "
      "base_model_name_or_path, and give the merged model");
}

void FailNoCheckpoint(const fs::path& directory) {
  bool has_adapter = false;
  bool has_consolidated = false;
  bool has_pytorch = false;
  bool has_gguf = false;
  bool has_chunks = false;
  std::string other;  // a file of another framework
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    has_adapter = has_adapter || IsAdapterName(name);
    has_consolidated =
        has_consolidated || (name.starts_with("consolidated") && IsSafetensors(name));
    has_pytorch = has_pytorch ||
                  (!IsAdapterName(name) &&
                   (name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth")));
    has_gguf = has_gguf || name.ends_with(".gguf");
    has_chunks = has_chunks || name.ends_with(".distcp");
    for (const std::string_view ending : {".onnx", ".msgpack", ".h5", ".pdparams", ".ckpt.index"}) {
      if (name.ends_with(ending) && (other.empty() || name < other)) other = name;
    }
  }
  if (has_adapter && !has_consolidated && !has_pytorch && !has_gguf) FailAdapter(directory);
  if (has_consolidated) {
    FailPath(ErrorCode::kBadInput, directory,
             "this directory holds consolidated*.safetensors alone, the model in its publisher's "
             "own form; give the checkpoint in Hugging Face's form");
  }
  std::string instead = "give the directory that holds the *.safetensors files";
  if (const fs::path below = CheckpointBelow(directory); !below.empty()) {
    instead = fmt::format("some lie in {}: give that, if it is the checkpoint", ShownPath(below));
  }
  if (!other.empty()) {
    instead = fmt::format(
        "{} is of another framework or runtime, whose files are not read; give the safetensors "
        "checkpoint of the model",
        ShownPath(other));
  }
  if (has_gguf) {
    instead =
        "it holds GGUF files: name one of them to dsv3-inspect or to structure, numeric, compare, "
        "checksum check or all of dsv3-verify; other commands need the safetensors checkpoint that "
        "they were made from";
  }
  if (has_pytorch) {
    instead =
        "its weights seem to be PyTorch files; several of them need their "
        "pytorch_model.bin.index.json, and one can be given by its name: dsv3-convert "
        "train-to-infer FILE OUT";
  }
  if (has_chunks) {
    instead =
        "its *.distcp files are of torch.distributed.checkpoint, and .metadata, which says what "
        "is in them, is missing: it is saved last, and copies like `cp DIR/*` leave it out for "
        "the dot that its name begins with; copy it, or save the checkpoint again";
  }
  FailPath(ErrorCode::kBadInput, directory,
           fmt::format("this directory holds no checkpoint: there is no {} and no *.safetensors "
                       "file; {}",
                       kShardIndexName, instead));
}

}  // namespace dsv3::formats
