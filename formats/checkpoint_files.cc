#include "formats/checkpoint_files.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <tbb/parallel_for.h>
#include <tbb/parallel_invoke.h>

#include "formats/checkpoint_check.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/io/input_file.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIoFinding = "shard-io-error";
// The index of the largest model has 8 MB.
constexpr std::uint64_t kMaxIndexBytes = 256 << 20;

// A shard and what was wrong with reading it.
struct OpenedShard {
  ShardFile shard;
  Findings findings;
  bool readable = false;
};

Finding FileFinding(Severity severity, std::string_view kind, const std::string& file,
                    std::string message) {
  return {.severity = severity,
          .kind = std::string(kind),
          .file = file,
          .tensor = {},
          .message = std::move(message),
          .unreadable = false};
}

Finding MissingShard(const ShardFile& shard) {
  std::error_code error;
  const bool is_link = fs::is_symlink(fs::symlink_status(shard.path, error));
  const std::string problem =
      is_link ? fmt::format("this shard is a symlink to {}, which does not exist",
                            fs::read_symlink(shard.path, error).string())
              : "the index lists this shard, but there is no such file";
  return FileFinding(Severity::kError, "missing-shard", shard.name,
                     fmt::format("{}: {}; download the file again", shard.name, problem));
}

Finding ReadingFinding(const ShardFile& shard, const Error& error) {
  std::error_code ignored;
  Finding finding;
  if (fs::status(shard.path, ignored).type() == fs::file_type::not_found) {
    finding = MissingShard(shard);
  } else {
    finding = FileFinding(
        Severity::kError,
        error.code() == ErrorCode::kIo ? kIoFinding : std::string_view("unreadable-shard"),
        shard.name, error.message());
    finding.tensor = error.place().tensor;
  }
  finding.unreadable = true;
  return finding;
}

using FreedShards = std::vector<FreedShard>;

// The shard's saved header, unless the shard is on the disk.
const FreedShard* FindFreed(const FreedShards& freed, const ShardFile& shard) {
  const auto found = std::find_if(freed.begin(), freed.end(),
                                  [&](const FreedShard& one) { return one.name == shard.name; });
  std::error_code ignored;
  return found == freed.end() || fs::exists(shard.path, ignored) ? nullptr : &*found;
}

OpenedShard OpenShard(const fs::path& directory, const std::string& name,
                      const FreedShards& freed) {
  OpenedShard opened;
  opened.shard.name = name;
  opened.shard.path = directory / name;
  try {
    if (const FreedShard* saved = FindFreed(freed, opened.shard)) {
      opened.shard.bytes = saved->bytes;
      opened.shard.mtime_ns = saved->mtime_ns;
      opened.shard.header =
          ParseSafetensorsHeader(std::as_bytes(std::span(saved->header)), saved->bytes, name);
      opened.readable = true;
      return opened;
    }
    const InputFile file(opened.shard.path, name);
    opened.shard.bytes = file.bytes();
    opened.shard.mtime_ns = file.mtime_ns();
    opened.shard.header = ReadSafetensorsHeader(file);
    opened.readable = true;
    opened.findings = opened.shard.header.nonconformities;
  } catch (const Error& error) {
    opened.findings.push_back(ReadingFinding(opened.shard, error));
  }
  return opened;
}

std::vector<OpenedShard> OpenShards(const fs::path& directory,
                                    const std::vector<std::string>& names,
                                    const FreedShards& freed) {
  std::vector<OpenedShard> opened(names.size());
  tbb::parallel_for(std::size_t{0}, names.size(),
                    [&](std::size_t i) { opened[i] = OpenShard(directory, names[i], freed); });
  return opened;
}

ShardIndex ReadIndex(const fs::path& directory) {
  return ParseShardIndex(ReadSmallFile(directory / kShardIndexName, kMaxIndexBytes),
                         std::string(kShardIndexName));
}

// Whether there is anything by that name, even if it cannot be opened.
bool HasIndex(const fs::path& directory) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(directory / kShardIndexName, error);
  if (error && status.type() != fs::file_type::not_found) {
    throw IoError("look at", (directory / kShardIndexName).string(), error.value());
  }
  return status.type() != fs::file_type::not_found;
}

// The shards that the index names, in its order. `likely` are files that lie there: their headers
// are read while the index is still being parsed.
std::vector<OpenedShard> OpenIndexed(const fs::path& directory,
                                     const std::vector<std::string>& likely,
                                     const FreedShards& freed, std::optional<ShardIndex>& index) {
  std::vector<OpenedShard> early;
  tbb::parallel_invoke([&] { index = ReadIndex(directory); },
                       [&] { early = OpenShards(directory, likely, freed); });
  std::vector<std::string> others;
  std::set_difference(index->files.begin(), index->files.end(), likely.begin(), likely.end(),
                      std::back_inserter(others));
  std::vector<OpenedShard> late = OpenShards(directory, others, freed);
  std::vector<OpenedShard> opened;
  opened.reserve(index->files.size());
  for (const std::string& name : index->files) {
    const auto known = std::lower_bound(likely.begin(), likely.end(), name);
    if (known != likely.end() && *known == name) {
      opened.push_back(std::move(early[static_cast<std::size_t>(known - likely.begin())]));
    } else {
      const auto other = std::lower_bound(others.begin(), others.end(), name) - others.begin();
      opened.push_back(std::move(late[static_cast<std::size_t>(other)]));
    }
  }
  return opened;
}

// Moves the shards into `files` and compares them with each other.
void TakeShards(std::vector<OpenedShard> opened, CheckpointFiles& files) {
  std::vector<bool> readable;
  for (OpenedShard& one : opened) {
    readable.push_back(one.readable);
    files.shards.push_back(std::move(one.shard));
    std::move(one.findings.begin(), one.findings.end(), std::back_inserter(files.findings));
  }
  std::vector<ShardToCheck> to_check;
  for (std::size_t i = 0; i < files.shards.size(); ++i) {
    to_check.push_back({files.shards[i].name, readable[i] ? &files.shards[i].header : nullptr});
  }
  Findings found = files.index ? CompareWithIndex(*files.index, to_check) : CompareShards(to_check);
  std::move(found.begin(), found.end(), std::back_inserter(files.findings));
}

void NoteUnlisted(const CheckpointListing& listing, CheckpointFiles& files) {
  for (const std::string& name : listing.safetensors) {
    const bool is_shard = std::any_of(files.shards.begin(), files.shards.end(),
                                      [&](const ShardFile& shard) { return shard.name == name; });
    if (is_shard) continue;
    files.findings.push_back(FileFinding(
        Severity::kWarning, "unlisted-shard", name,
        fmt::format("{}: {}, so it does not belong to the checkpoint and is left alone", name,
                    files.index ? "the index does not list this file"
                                : "this file lies in a subdirectory")));
  }
}

void NoteDeadLinks(const CheckpointListing& listing, CheckpointFiles& files) {
  for (const std::string& name : listing.dead_links) {
    files.findings.push_back(
        FileFinding(Severity::kWarning, "dead-link", name,
                    fmt::format("{}: this symlink leads nowhere, so the file is left out; remove "
                                "the link or download the file again",
                                name)));
  }
}

void TakeSideFiles(std::vector<std::string> names, CheckpointFiles& files) {
  for (std::string& name : names) {
    const bool is_shard = std::any_of(files.shards.begin(), files.shards.end(),
                                      [&](const ShardFile& shard) { return shard.name == name; });
    if (!is_shard) files.side_files.push_back(std::move(name));
  }
}

void OrderFindings(Findings& findings) {
  std::stable_sort(findings.begin(), findings.end(),
                   [](const Finding& a, const Finding& b) { return a.file < b.file; });
}

CheckpointFiles OpenFile(const CheckpointLocation& location, const FreedShards& freed) {
  const std::string& name = *location.file_name;
  if (HasIndex(location.directory)) {
    const ShardIndex index = ReadIndex(location.directory);
    if (std::binary_search(index.files.begin(), index.files.end(), name)) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("{}: this is one of the {} shards of the checkpoint in {}; give that "
                              "directory instead of the file",
                              name, index.files.size(), location.directory.string()),
                  {.file = name, .tensor = {}});
    }
  }
  CheckpointFiles files;
  files.directory = location.directory;
  files.form = CheckpointFiles::Form::kSingle;
  std::vector<OpenedShard> opened;
  opened.push_back(OpenShard(location.directory, name, freed));
  TakeShards(std::move(opened), files);
  const CheckpointListing listing = ListCheckpoint(location.directory, false);
  TakeSideFiles(listing.side_files, files);
  OrderFindings(files.findings);
  return files;
}

CheckpointFiles OpenDirectory(const fs::path& directory, const FreedShards& freed) {
  CheckpointFiles files;
  files.directory = directory;
  std::vector<std::string> present = ListSafetensors(directory);
  for (const FreedShard& shard : freed) present.push_back(shard.name);
  std::sort(present.begin(), present.end());
  present.erase(std::unique(present.begin(), present.end()), present.end());
  if (HasIndex(directory)) {
    files.form = CheckpointFiles::Form::kIndexed;
    std::vector<OpenedShard> opened = OpenIndexed(directory, present, freed, files.index);
    TakeShards(std::move(opened), files);
  } else {
    if (present.empty()) FailNoCheckpoint(directory);
    files.form =
        present.size() == 1 ? CheckpointFiles::Form::kSingle : CheckpointFiles::Form::kUnindexed;
    TakeShards(OpenShards(directory, present, freed), files);
    if (files.form == CheckpointFiles::Form::kUnindexed) {
      files.findings.push_back(FileFinding(
          Severity::kWarning, "no-index", "",
          fmt::format("{}: there is no {}, so all {} *.safetensors files in the directory are "
                      "taken as the checkpoint; that none is missing cannot be known",
                      directory.string(), kShardIndexName, present.size())));
    }
  }
  const CheckpointListing listing = ListCheckpoint(directory, true);
  NoteUnlisted(listing, files);
  NoteDeadLinks(listing, files);
  TakeSideFiles(listing.side_files, files);
  OrderFindings(files.findings);
  return files;
}

}  // namespace

bool CheckpointFiles::HasConfig() const {
  return std::binary_search(side_files.begin(), side_files.end(), "config.json");
}

CheckpointFiles OpenCheckpointFiles(const fs::path& path, const FreedShards& freed) {
  const bool is_freed_file = std::any_of(freed.begin(), freed.end(), [&](const FreedShard& shard) {
    std::error_code ignored;
    return path.filename() == shard.name && !fs::exists(path, ignored);
  });
  const CheckpointLocation location =
      is_freed_file ? CheckpointLocation{fs::absolute(path).parent_path(), path.filename().string()}
                    : LocateCheckpoint(path);
  return location.file_name ? OpenFile(location, freed) : OpenDirectory(location.directory, freed);
}

void RequireConsistent(const CheckpointFiles& files) {
  const Finding* first = nullptr;
  std::size_t others = 0;
  for (const Finding& finding : files.findings) {
    if (finding.severity != Severity::kError) continue;
    if (first == nullptr) {
      first = &finding;
    } else {
      ++others;
    }
  }
  if (first == nullptr) return;
  std::string message = first->message;
  if (others > 0) {
    message += fmt::format(" ({} more {} found; dsv3-inspect lists all)", others,
                           others == 1 ? "problem was" : "problems were");
  }
  throw Error(first->kind == kIoFinding ? ErrorCode::kIo : ErrorCode::kBadInput, message,
              {.file = first->file, .tensor = first->tensor});
}

std::string ReadSmallFile(const fs::path& path, std::uint64_t max_bytes) {
  const InputFile file(path, path.string());
  if (file.bytes() > max_bytes) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: the file has {} bytes, at most {} are expected; it is not what "
                            "its name says, download it again",
                            path.string(), file.bytes(), max_bytes),
                {.file = path.string(), .tensor = {}});
  }
  std::string text(file.bytes(), '\0');
  file.ReadAt(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace dsv3::formats
