#include "convert/job/source_release.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/job/finished_files.h"
#include "convert/job/output_state.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/file_range.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFreedPrefix = ".dsv3-freed-";
// More than any file that is opened is described by.
constexpr std::uint64_t kMaxSavedBytes = std::uint64_t{1} << 30;

std::vector<fs::path> SavedFiles(const fs::path& directory, bool with_partial) {
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

void AppendNumber(std::uint64_t number, std::string& text) {
  std::array<char, sizeof(number)> bytes;
  std::memcpy(bytes.data(), &number, sizeof(number));
  text.append(bytes.data(), bytes.size());
}

// Takes a number from the front of `text`; nothing where it ends before.
std::optional<std::uint64_t> TakeNumber(std::string_view& text) {
  std::uint64_t number = 0;
  if (text.size() < sizeof(number)) return std::nullopt;
  std::memcpy(&number, text.data(), sizeof(number));
  text.remove_prefix(sizeof(number));
  return number;
}

// The saved ranges of a shard; false where the text does not end with one.
bool TakeRanges(std::string_view text, formats::FreedShard& shard) {
  while (!text.empty()) {
    const auto offset = TakeNumber(text);
    const auto bytes = TakeNumber(text);
    if (!offset || !bytes || *bytes > text.size() || *offset > shard.bytes ||
        *bytes > shard.bytes - *offset) {
      return false;
    }
    shard.saved.push_back({*offset, std::string(text.substr(0, *bytes))});
    text.remove_prefix(*bytes);
  }
  return true;
}

// Progress of the re-reads does not count in the job's bytes.
ProgressSink& Silent() {
  static ProgressSink sink;
  return sink;
}

}  // namespace

SourceRelease::SourceRelease(formats::FileSystem& file_system, fs::path directory, fs::path source,
                             const Plan& plan, const SourceUse& use, SourceFiles& sources,
                             const StopToken& stop)
    : fs_(file_system),
      directory_(std::move(directory)),
      source_(std::move(source)),
      plan_(plan),
      use_(use),
      sources_(sources.stored()),
      stop_(stop),
      needs_(use.CountNeeds(plan)) {}

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
  for (const std::uint32_t source : use_.FilesOf(plan_.files[file])) {
    if (--needs_[source] == 0) Free(source);
  }
}

void SourceRelease::Free(std::uint32_t source) {
  const fs::path& path = use_.files()[source].path;
  std::error_code error;
  const bool is_link = fs::is_symlink(fs::symlink_status(path, error));
  if (!formats::Exists(path)) {
    // An earlier run freed the file; where that run ended before the last step, the link is still
    // there.
    if (is_link) fs_.Remove(path);
    return;
  }
  // Links are looked for again: a download may have made one since the run began.
  SourceDeletion deletion = DeletionRules(source_).Of(path);
  if (deletion.shard_goes()) {
    Save(source);
    sources_.Close(source);
    // In a hub cache the shard is a symlink to the blob that takes the space.
    if (deletion.is_link() && deletion.file_goes()) fs_.Remove(deletion.file);
    fs_.Remove(path);
    fs_.SyncDirectory(path.parent_path());
  }
  deletions_.push_back(std::move(deletion));
}

// A line with size, time and name; then each saved range: where it begins, its length, its bytes.
void SourceRelease::Save(std::uint32_t source) {
  const SourceFile& file = use_.files()[source];
  const auto input = sources_.Get(source);
  std::string saved = fmt::format("{} {} {}\n", file.bytes, file.mtime_ns, file.name);
  for (const formats::FileRange& range : file.described_by) {
    AppendNumber(range.offset, saved);
    AppendNumber(range.bytes, saved);
    const std::size_t begin = saved.size();
    saved.resize(begin + range.bytes);
    input->ReadAt(range.offset, std::as_writable_bytes(std::span(saved)).subspan(begin));
  }

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
  for (const fs::path& path : SavedFiles(directory, false)) {
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
    if (TakeRanges(std::string_view(saved).substr(line + 1), shard)) {
      shards.push_back(std::move(shard));
    }
  }
  return shards;
}

void RemoveFreedShards(const fs::path& directory, formats::FileSystem& file_system) {
  const std::vector<fs::path> paths = SavedFiles(directory, true);
  for (const fs::path& path : paths) file_system.Remove(path);
  if (!paths.empty()) file_system.SyncDirectory(directory);
}

}  // namespace dsv3::convert
