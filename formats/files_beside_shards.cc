#include "formats/files_beside_shards.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "formats/io/dead_link.h"
#include "formats/left_behind.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;

// The shards are sorted by name.
bool IsShard(const CheckpointFiles& files, std::string_view name) {
  const auto shard =
      std::lower_bound(files.shards.begin(), files.shards.end(), name,
                       [](const ShardFile& a, std::string_view b) { return a.name < b; });
  return shard != files.shards.end() && shard->name == name;
}

std::string ReasonToLeave(const std::string& name, const CheckpointFiles& files) {
  if (files.index) return "the index does not list this file";
  if (name.find('/') != std::string::npos) return "this file lies in a subdirectory";
  if (name.starts_with("consolidated")) {
    return "files of this name hold the weights once more, in their publisher's own form";
  }
  return fmt::format("without an index loaders take {} alone", files.shards.front().name);
}

// Whether shards are links to the file, which lies in a subdirectory.
bool IsLinkedShard(const CheckpointFiles& files, const std::string& name) {
  std::error_code error;  // what cannot be looked at is not the same file
  const auto is_same = [&](const ShardFile& shard) {
    return fs::equivalent(shard.path, files.directory / name, error);
  };
  return name.find('/') != std::string::npos &&
         std::any_of(files.shards.begin(), files.shards.end(), is_same);
}

Finding Warning(std::string_view kind, const std::string& file, std::string message) {
  return {.severity = Severity::kWarning,
          .kind = std::string(kind),
          .file = file,
          .tensor = {},
          .message = std::move(message),
          .unreadable = false};
}

}  // namespace

void NoteFilesLeftOut(const CheckpointListing& listing, CheckpointFiles& files) {
  for (const std::string& name : listing.safetensors) {
    if (IsShard(files, name) || IsLinkedShard(files, name)) continue;
    files.findings.push_back(
        Warning("unlisted-shard", name,
                fmt::format("{}: {}, so it does not belong to the checkpoint and is left alone",
                            ShownPath(name), ReasonToLeave(name, files))));
  }
  for (const std::string& name : listing.dead_links) {
    files.findings.push_back(
        Warning("dead-link", name,
                fmt::format("{}: this file is {}, so that it is left out; remove the link or "
                            "download the file again",
                            ShownPath(name), DeadLinkProblem(files.directory / name))));
  }
}

void TakeSideFiles(const CheckpointListing& listing, CheckpointFiles& files) {
  for (const std::string& name : listing.side_files) {
    if (IsShard(files, name)) continue;
    const std::optional<LeftBehindKind> kind = KindOfLeftBehind(name);
    if (!kind) {
      files.side_files.push_back(name);
      continue;
    }
    std::error_code error;
    const std::uintmax_t bytes = fs::file_size(files.directory / name, error);
    files.left_behind.push_back({name, *kind, error ? 0 : bytes});
  }
}

}  // namespace dsv3::formats
