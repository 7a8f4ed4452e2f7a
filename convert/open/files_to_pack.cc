#include "convert/open/files_to_pack.h"

#include <algorithm>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include "convert/catalog/tensor_file.h"
#include "convert/open/model_files.h"
#include "convert/open/unfinished.h"
#include "convert/packing/packed_manifest.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/io/dead_link.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".safetensors";

struct Listing {
  std::vector<std::string> weights;
  std::vector<std::string> others;
  std::vector<std::string> left_behind;
  std::vector<std::string> left_out;  // of unfinished runs
  std::vector<std::string> dead_links;
};

bool IsOfRuns(std::string_view name) {
  return name.starts_with(".dsv3-") || name.ends_with(".partial");
}

bool IsDead(const fs::file_status& status, const std::error_code& error) {
  return status.type() == fs::file_type::not_found ||
         error == std::errc::too_many_symbolic_link_levels;
}

Listing List(const fs::path& directory) {
  Listing listing;
  std::error_code error;
  fs::recursive_directory_iterator entry(directory, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end; entry.increment(error)) {
    const std::string base = entry->path().filename().string();
    const std::string name = entry->path().lexically_relative(directory).generic_string();
    std::error_code ignored;
    const bool is_link = entry->is_symlink(ignored);
    if (!is_link && entry->is_directory(ignored)) {
      if (IsOfRuns(base)) entry.disable_recursion_pending();
      continue;
    }
    std::error_code status_error;
    const fs::file_status status = entry->status(status_error);
    if (status.type() != fs::file_type::regular) {
      if (is_link && IsDead(status, status_error)) listing.dead_links.push_back(name);
      continue;
    }
    const std::string inside = "/" + name;
    if (IsOfRuns(base)) {
      listing.left_out.push_back(name);
    } else if (inside.find("/.git/") != std::string::npos ||
               inside.find("/.cache/") != std::string::npos) {
      listing.left_behind.push_back(name);
    } else if (base.ends_with(kSuffix)) {
      listing.weights.push_back(name);
    } else if (name != formats::kShardIndexName) {
      listing.others.push_back(name);
    }
  }
  if (error) throw IoError("list", directory.string(), error.value());
  return listing;
}

formats::Finding Warning(std::string_view kind, const std::string& file, std::string message) {
  formats::Finding finding;
  finding.severity = formats::Severity::kWarning;
  finding.kind = kind;
  finding.file = file;
  finding.message = std::move(message);
  return finding;
}

// Throws where the index lists a file that is not there.
void RequireListed(const fs::path& directory, const std::vector<std::string>& weights) {
  const std::string name(formats::kShardIndexName);
  const formats::ShardIndex index = formats::ParseShardIndex(ReadIndexText(directory), name);
  for (const std::string& file : index.files) {
    if (std::binary_search(weights.begin(), weights.end(), file)) continue;
    const std::string dead = formats::DeadLinkProblem(directory / file);
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: {}; download the file again", formats::ShownPath(file),
                            dead.empty() ? "the index lists this shard, but there is no such "
                                           "safetensors file"
                                         : "this shard is " + dead),
                {file, ""});
  }
}

// Throws where pack's own name is taken.
void RequireNotPacked(const fs::path& directory) {
  const std::string name(kPackedManifestName);
  if (!formats::EntryExists(directory / name)) return;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("{}: it holds a {}, so it is packed already; unpack it first, or, if that "
                  "file is another one, give it another name",
                  formats::ShownPath(directory), name),
      {name, ""});
}

void TakeListing(Listing listing, OpenedModel& model) {
  model.side_files = std::move(listing.others);
  std::sort(model.side_files.begin(), model.side_files.end());
  std::sort(listing.left_behind.begin(), listing.left_behind.end());
  for (std::string& name : listing.left_behind) {
    std::error_code error;
    const std::uintmax_t bytes = fs::file_size(model.directory / name, error);
    model.left_behind.push_back(
        {std::move(name), formats::LeftBehindKind::kSystemRecord, error ? 0 : bytes});
  }
  for (const std::string& name : listing.dead_links) {
    model.findings.push_back(Warning(
        "dead-link", name,
        fmt::format("{}: this file is {}, so that it is left out; remove the link or download the "
                    "file again",
                    formats::ShownPath(name), formats::DeadLinkProblem(model.directory / name))));
  }
  for (const std::string& name : listing.left_out) {
    model.findings.push_back(Warning(
        "left-out", name,
        fmt::format("{}: the name says that an unfinished run left this file, so it is left "
                    "out; remove it, or give it another name",
                    formats::ShownPath(name))));
  }
  std::stable_sort(model.findings.begin(), model.findings.end(),
                   [](const auto& a, const auto& b) { return a.file < b.file; });
}

}  // namespace

OpenedModel OpenFilesToPack(const fs::path& input, const OpenOptions& options) {
  RefuseUnfinishedConversion(input);
  OpenedModel model;
  Listing listing;
  if (formats::FindFreed(options.freed, input.filename().string(), input) != nullptr) {
    model.directory = fs::absolute(input).parent_path();
    listing.weights = {input.filename().string()};
  } else {
    formats::CheckpointLocation location = formats::LocateCheckpoint(input);
    model.directory = std::move(location.directory);
    if (location.file_name) {
      listing.weights = {*location.file_name};
    } else {
      RequireNotPacked(model.directory);
      listing = List(model.directory);
      for (const formats::FreedShard& shard : options.freed) listing.weights.push_back(shard.name);
    }
  }
  std::vector<std::string> names = std::move(listing.weights);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  if (names.empty()) formats::FailNoCheckpoint(model.directory);
  std::error_code ignored;
  const fs::path index = model.directory / formats::kShardIndexName;
  const bool is_file = !fs::is_directory(input, ignored);
  if (!is_file && formats::EntryExists(index)) {
    RequireListed(model.directory, names);
    model.form = formats::CheckpointFiles::Form::kIndexed;
    model.needs_index = true;
  }
  std::vector<TensorFile> files(names.size());
  tbb::parallel_for(std::size_t{0}, names.size(), [&](std::size_t i) {
    files[i] = OpenTensorFile(model.directory, names[i], options.freed);
  });
  TakeListing(std::move(listing), model);
  FindSharedNames(files);
  model.catalog = CatalogOfFiles(std::move(files));
  model.freed = options.freed;
  return model;
}

}  // namespace dsv3::convert
