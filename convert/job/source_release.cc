#include "convert/job/source_release.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/job/finished_files.h"
#include "convert/job/output_state.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFreedPrefix = ".dsv3-freed-";
constexpr std::uint64_t kMaxSavedBytes = formats::kMaxSafetensorsHeaderBytes + (1 << 20);

std::vector<fs::path> SavedHeaders(const fs::path& directory, bool with_partial) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with(kFreedPrefix) && (with_partial || !name.ends_with(".partial"))) {
      paths.push_back(entry->path());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

// Progress of the re-reads does not count in the job's bytes.
ProgressSink& Silent() {
  static ProgressSink sink;
  return sink;
}

}  // namespace

std::vector<std::uint32_t> SourcesOf(const PlannedFile& file, const Catalog& catalog) {
  std::vector<std::uint32_t> sources;
  const auto add = [&](std::uint32_t tensor) {
    const std::uint32_t source = catalog.tensors()[tensor].extent.file;
    if (source < catalog.files_end()) sources.push_back(source);
  };
  for (const PlannedTensor& tensor : file.tensors) {
    for (const std::uint32_t one : tensor.expression->streamed_sources()) add(one);
    for (const std::uint32_t side : tensor.expression->side_sources()) add(side);
  }
  std::sort(sources.begin(), sources.end());
  sources.erase(std::unique(sources.begin(), sources.end()), sources.end());
  return sources;
}

std::vector<std::uint32_t> CountNeeds(const Plan& plan, const Catalog& catalog) {
  std::vector<std::uint32_t> needs(catalog.files().size(), 0);
  for (const PlannedFile& file : plan.files) {
    for (const std::uint32_t source : SourcesOf(file, catalog)) ++needs[source];
  }
  return needs;
}

SourceRelease::SourceRelease(formats::FileSystem& file_system, fs::path directory, fs::path source,
                             const Plan& plan, const Catalog& catalog, SourceFiles& sources,
                             const StopToken& stop)
    : fs_(file_system),
      directory_(std::move(directory)),
      source_(std::move(source)),
      plan_(plan),
      catalog_(catalog),
      sources_(sources),
      stop_(stop),
      needs_(CountNeeds(plan, catalog)) {}

void SourceRelease::Committed(std::size_t file, const FileRecord& record) {
  if (!MatchesRecord(directory_ / record.name, record, Silent(), stop_)) {
    throw Error(
        ErrorCode::kVerification,
        fmt::format(
            "{}: the bytes that were read back are not those that were written; the disk or the "
            "memory of this machine is faulty. No source shard that this file needs was deleted",
            formats::ShownPath(directory_ / record.name)),
        {record.name, ""});
  }
  Checked(file);
}

void SourceRelease::Checked(std::size_t file) {
  const std::lock_guard lock(mutex_);
  for (const std::uint32_t source : SourcesOf(plan_.files[file], catalog_)) {
    if (--needs_[source] == 0) Free(source);
  }
}

void SourceRelease::Free(std::uint32_t source) {
  const fs::path& path = catalog_.files()[source].path;
  std::error_code error;
  const bool is_link = fs::is_symlink(fs::symlink_status(path, error));
  if (!fs::exists(path, error)) {
    // An earlier run freed the file; where that run ended before the last step, the link is still
    // there.
    if (is_link) fs_.Remove(path);
    return;
  }
  // Links are looked for again: a download may have made one since the run began.
  SourceDeletion deletion = DeletionRules(source_).Of(path);
  if (deletion.shard_goes()) {
    SaveHeader(source);
    sources_.Close(source);
    // In a hub cache the shard is a symlink to the blob that takes the space.
    if (deletion.is_link() && deletion.file_goes()) fs_.Remove(deletion.file);
    fs_.Remove(path);
    fs_.SyncDirectory(path.parent_path());
  }
  deletions_.push_back(std::move(deletion));
}

void SourceRelease::SaveHeader(std::uint32_t source) {
  const SourceFile& file = catalog_.files()[source];
  const auto input = sources_.Get(source);
  std::uint64_t header_bytes = 0;
  input->ReadAt(0, std::as_writable_bytes(std::span(&header_bytes, 1)));
  std::string saved = fmt::format("{} {} {}\n", file.bytes, file.mtime_ns, file.name);
  const std::size_t line = saved.size();
  saved.resize(line + sizeof(header_bytes) + header_bytes);
  input->ReadAt(0, std::as_writable_bytes(std::span(saved)).subspan(line));

  const std::string name = fmt::format("{}{:05}", kFreedPrefix, source);
  {
    const auto output = fs_.Create(directory_ / PartialName(name), 0);
    output->WriteAt(0, std::as_bytes(std::span(saved)));
    output->Sync();
  }
  fs_.Rename(directory_ / PartialName(name), directory_ / name);
  fs_.SyncDirectory(directory_);
}

std::vector<formats::FreedShard> ReadFreedShards(const fs::path& directory) {
  std::vector<formats::FreedShard> shards;
  for (const fs::path& path : SavedHeaders(directory, false)) {
    const std::string saved = formats::ReadSmallFile(path, kMaxSavedBytes);
    const std::size_t line = saved.find('\n');
    formats::FreedShard shard;
    if (line == std::string::npos) continue;
    const char* const end = saved.data() + line;
    const auto bytes = std::from_chars(saved.data(), end, shard.bytes);
    if (bytes.ec != std::errc() || bytes.ptr == end) continue;
    const auto mtime = std::from_chars(bytes.ptr + 1, end, shard.mtime_ns);
    if (mtime.ec != std::errc() || mtime.ptr == end) continue;
    shard.name.assign(mtime.ptr + 1, end);
    shard.header = saved.substr(line + 1);
    shards.push_back(std::move(shard));
  }
  return shards;
}

void RemoveFreedShards(const fs::path& directory, formats::FileSystem& file_system) {
  const std::vector<fs::path> paths = SavedHeaders(directory, true);
  for (const fs::path& path : paths) file_system.Remove(path);
  if (!paths.empty()) file_system.SyncDirectory(directory);
}

}  // namespace dsv3::convert
