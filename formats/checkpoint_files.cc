#include "formats/checkpoint_files.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <tbb/parallel_for.h>
#include <tbb/parallel_invoke.h>

#include "formats/adapter_name.h"
#include "formats/checkpoint_check.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/files_beside_shards.h"
#include "formats/io/dead_link.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
#include "formats/require_no_errors.h"
#include "formats/text_encoding.h"

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

// A file whose name differs from that of the shard in upper and lower case alone, and by which
// nobody finds it; empty where there is none.
std::string OfOtherCase(const fs::path& path) {
  const std::string lower = AsciiLower(path.filename().string());
  std::error_code error;
  for (fs::directory_iterator entry(path.parent_path(), error), end; !error && entry != end;
       entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (AsciiLower(name) == lower) return name;
  }
  return "";
}

Finding MissingShard(const ShardFile& shard) {
  const std::string dead = DeadLinkProblem(shard.path);
  std::string problem = dead.empty() ? "the index lists this shard, but there is no such file"
                                     : "this shard is " + dead;
  const std::string other = dead.empty() ? OfOtherCase(shard.path) : "";
  problem += other.empty() ? "; download the file again"
                           : fmt::format("; {} is there: give it this name", ShownPath(other));
  return FileFinding(Severity::kError, "missing-shard", shard.name,
                     fmt::format("{}: {}", ShownPath(shard.name), problem));
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

OpenedShard OpenShard(const fs::path& directory, const std::string& name,
                      const FreedShards& freed) {
  OpenedShard opened;
  opened.shard.name = name;
  opened.shard.path = directory / name;
  try {
    const InputFile file = OpenOrFreed(opened.shard.path, name, freed);
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

ShardIndex ReadIndex(const fs::path& directory, Findings* faults = nullptr) {
  return ParseShardIndex(ReadSmallFile(directory / kShardIndexName, kMaxIndexBytes),
                         std::string(kShardIndexName), faults);
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

// Reads the index into files.index. With kReport its faults go to files.findings, and it stays
// empty where nothing could be read; the first fault is returned then.
std::optional<Error> TakeIndex(FaultyIndex faulty_index, CheckpointFiles& files) {
  if (faulty_index == FaultyIndex::kThrow) {
    files.index = ReadIndex(files.directory);
    return std::nullopt;
  }
  const std::string name(kShardIndexName);
  try {
    files.index = ReadIndex(files.directory, &files.findings);
  } catch (const Error& error) {
    Finding finding =
        FileFinding(Severity::kError, "unreadable-index", name,
                    fmt::format("{}; the *.safetensors files beside it were checked without it",
                                error.message()));
    finding.tensor = error.place().tensor;
    finding.unreadable = true;
    files.findings = {finding};
    return error;
  }
  if (!files.index->weight_map.empty()) return std::nullopt;
  if (files.findings.empty()) FailEmptyIndex(name);
  files.index.reset();
  const Finding& first = files.findings[0];
  return Error(ErrorCode::kBadInput, first.message, {.file = name, .tensor = first.tensor});
}

// The shards that the index names, in its order, or without one those in `present`, which lie in
// the directory: their headers are read while the index is still being parsed.
std::vector<OpenedShard> OpenIndexed(const std::vector<std::string>& present,
                                     const FreedShards& freed, FaultyIndex faulty_index,
                                     CheckpointFiles& files) {
  std::vector<OpenedShard> early;
  std::optional<Error> fault;
  tbb::parallel_invoke([&] { fault = TakeIndex(faulty_index, files); },
                       [&] { early = OpenShards(files.directory, present, freed); });
  if (!files.index) {
    if (present.empty()) throw Error(*fault);
    return early;
  }
  const std::vector<std::string>& listed = files.index->files;
  std::vector<std::string> others;
  std::set_difference(listed.begin(), listed.end(), present.begin(), present.end(),
                      std::back_inserter(others));
  std::vector<OpenedShard> late = OpenShards(files.directory, others, freed);
  std::vector<OpenedShard> opened;
  opened.reserve(listed.size());
  auto next_late = late.begin();
  auto next_early = early.begin();
  for (const std::string& name : listed) {
    if (next_late != late.end() && next_late->shard.name == name) {
      opened.push_back(std::move(*next_late++));
      continue;
    }
    for (; next_early->shard.name != name; ++next_early) {
      files.unlisted.push_back(std::move(next_early->shard));
    }
    opened.push_back(std::move(*next_early++));
  }
  for (; next_early != early.end(); ++next_early) {
    files.unlisted.push_back(std::move(next_early->shard));
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

// Without an index: the files that are the model. Loaders take model.safetensors alone where it is
// there; consolidated*.safetensors hold the weights once more, under names of their own.
std::vector<std::string> ModelAmong(const std::vector<std::string>& present) {
  constexpr std::string_view kSingle = "model.safetensors";
  if (std::find(present.begin(), present.end(), kSingle) != present.end()) {
    return {std::string(kSingle)};
  }
  std::vector<std::string> model;
  std::copy_if(present.begin(), present.end(), std::back_inserter(model),
               [](const std::string& name) { return !name.starts_with("consolidated"); });
  return model;
}

// Those of `present` that are not among the shards.
void OpenUnlisted(const std::vector<std::string>& present, const std::vector<std::string>& shards,
                  const FreedShards& freed, CheckpointFiles& files) {
  std::vector<std::string> others;
  std::set_difference(present.begin(), present.end(), shards.begin(), shards.end(),
                      std::back_inserter(others));
  for (OpenedShard& opened : OpenShards(files.directory, others, freed)) {
    files.unlisted.push_back(std::move(opened.shard));
  }
}

CheckpointFiles::Form FormWithoutIndex(std::size_t num_shards) {
  return num_shards == 1 ? CheckpointFiles::Form::kSingle : CheckpointFiles::Form::kUnindexed;
}

void OrderFindings(Findings& findings) {
  std::stable_sort(findings.begin(), findings.end(),
                   [](const Finding& a, const Finding& b) { return a.file < b.file; });
}

// Adapters also lie under names of models.
void RefuseAdapterAlone(const CheckpointFiles& files, const fs::path& path) {
  bool is_adapter = false;
  for (const ShardFile& shard : files.shards) {
    for (const SafetensorsTensor& tensor : shard.header.tensors) {
      is_adapter = tensor.name.find("lora_") != std::string::npos;
      if (!is_adapter) return;
    }
  }
  if (is_adapter) FailAdapter(path);
}

CheckpointFiles OpenFile(const CheckpointLocation& location, const FreedShards& freed,
                         FaultyIndex faulty_index) {
  const std::string& name = *location.file_name;
  if (IsAdapterName(name)) FailAdapter(location.directory / name);
  CheckpointFiles files;
  files.directory = location.directory;
  files.form = CheckpointFiles::Form::kSingle;
  if (HasIndex(location.directory)) {
    TakeIndex(faulty_index, files);
    if (files.index &&
        std::binary_search(files.index->files.begin(), files.index->files.end(), name)) {
      throw Error(
          ErrorCode::kUsage,
          fmt::format("{}: this is one of the {} shards of the checkpoint in {}; give that "
                      "directory instead of the file",
                      ShownPath(name), files.index->files.size(), ShownPath(location.directory)),
          {.file = name, .tensor = {}});
    }
    files.index.reset();
  }
  std::vector<OpenedShard> opened;
  opened.push_back(OpenShard(location.directory, name, freed));
  TakeShards(std::move(opened), files);
  RefuseAdapterAlone(files, location.directory / name);
  const CheckpointListing listing = ListCheckpoint(location.directory, false);
  TakeSideFiles(listing, files);
  OrderFindings(files.findings);
  return files;
}

CheckpointFiles OpenDirectory(const fs::path& directory, const FreedShards& freed,
                              FaultyIndex faulty_index) {
  CheckpointFiles files;
  files.directory = directory;
  std::vector<std::string> present = ListSafetensors(directory);
  for (const FreedShard& shard : freed) present.push_back(shard.name);
  std::sort(present.begin(), present.end());
  present.erase(std::unique(present.begin(), present.end()), present.end());
  if (HasIndex(directory)) {
    std::vector<OpenedShard> opened = OpenIndexed(present, freed, faulty_index, files);
    files.form = files.index ? CheckpointFiles::Form::kIndexed : FormWithoutIndex(opened.size());
    TakeShards(std::move(opened), files);
  } else {
    const std::vector<std::string> model = ModelAmong(present);
    if (model.empty()) FailNoCheckpoint(directory);
    files.form = FormWithoutIndex(model.size());
    TakeShards(OpenShards(directory, model, freed), files);
    RefuseAdapterAlone(files, directory);
    OpenUnlisted(present, model, freed, files);
    if (files.form == CheckpointFiles::Form::kUnindexed) {
      files.findings.push_back(FileFinding(
          Severity::kWarning, "no-index", "",
          fmt::format("{}: there is no {}, so all {} *.safetensors files in the directory are "
                      "taken as the checkpoint; that none is missing cannot be known",
                      ShownPath(directory), kShardIndexName, model.size())));
    }
  }
  const CheckpointListing listing = ListCheckpoint(directory, true);
  NoteFilesLeftOut(listing, files);
  TakeSideFiles(listing, files);
  OrderFindings(files.findings);
  return files;
}

}  // namespace

bool CheckpointFiles::HasConfig() const {
  return std::binary_search(side_files.begin(), side_files.end(), kConfigName);
}

CheckpointFiles OpenCheckpointFiles(const fs::path& path, const FreedShards& freed,
                                    FaultyIndex faulty_index) {
  const bool is_freed_file = FindFreed(freed, path.filename().string(), path) != nullptr;
  const CheckpointLocation location =
      is_freed_file ? CheckpointLocation{fs::absolute(path).parent_path(), path.filename().string()}
                    : LocateCheckpoint(path);
  return location.file_name ? OpenFile(location, freed, faulty_index)
                            : OpenDirectory(location.directory, freed, faulty_index);
}

void RequireConsistent(const CheckpointFiles& files) {
  RequireNoErrors(files.findings, {"problem was found; `dsv3-verify structure` lists all",
                                   "problems were found; `dsv3-verify structure` lists all"});
}

std::string ReadSmallFile(const fs::path& path, std::uint64_t max_bytes) {
  const InputFile file(path, path.string());
  if (file.bytes() > max_bytes) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: the file has {}, at most {} are expected; it is not what "
                            "its name says, download it again",
                            ShownPath(path), ExactBytes(file.bytes()), ExactBytes(max_bytes)),
                {.file = path.string(), .tensor = {}});
  }
  std::string text(file.bytes(), '\0');
  file.ReadAt(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace dsv3::formats
