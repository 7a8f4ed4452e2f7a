#include "convert/job/replaced_files.h"

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/job/finished_files.h"
#include "convert/stream/record.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

// The place of a file, links on the way followed, the file itself not.
fs::path PlaceOf(const fs::path& path) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  return fs::weakly_canonical(absolute.parent_path(), error) / absolute.filename();
}

// The places without which the file cannot be read: its own, and those that links lead through.
std::vector<fs::path> PlacesOf(fs::path path) {
  constexpr int kMostLinks = 40;
  std::vector<fs::path> places;
  for (int links = 0; links < kMostLinks; ++links) {
    places.push_back(PlaceOf(path));
    std::error_code error;
    const fs::path target = fs::read_symlink(places.back(), error);
    if (error) break;
    path = places.back().parent_path() / target;
  }
  return places;
}

// Refuses a `name` below the output directory where a part of its path is not a directory, or leads
// elsewhere.
void RequireDirectories(const fs::path& directory, const std::string& name) {
  fs::path way;
  for (const fs::path& component : fs::path(name).parent_path()) {
    way /= component;
    std::error_code error;
    const fs::file_status status = fs::symlink_status(directory / way, error);
    if (!fs::exists(status) || fs::is_directory(status)) continue;
    RefuseOutput(directory, fmt::format("{} is a {}, and this command needs a directory of that "
                                        "name for {}; move it away, or choose another directory",
                                        formats::ShownPath(way),
                                        fs::is_symlink(status) ? "link" : "file", name));
  }
}

// When a file was written last; the earliest time where that cannot be read.
fs::file_time_type TimeOf(const fs::path& path) {
  std::error_code error;
  const fs::file_time_type time = fs::last_write_time(path, error);
  return error ? fs::file_time_type::min() : time;
}

}  // namespace

std::optional<std::uint64_t> FileBytes(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return std::nullopt;
  const std::uint64_t bytes = fs::file_size(path, error);
  if (error) return std::nullopt;
  return bytes;
}

void RefuseOutput(const fs::path& directory, const std::string& message) {
  throw Error(ErrorCode::kUsage, fmt::format("{}: {}", formats::ShownPath(directory), message),
              {directory.string(), ""});
}

std::vector<std::string> FilesInTheWay(const fs::path& directory, const OutputJob& job,
                                       const std::vector<std::string>& known) {
  const std::set<std::string> ours(known.begin(), known.end());
  std::vector<std::string> names;
  for (const std::string& name : job.writes) {
    if (ours.count(name) == 0 && formats::EntryExists(directory / name)) names.push_back(name);
  }
  return names;
}

void RequireReplaceable(const fs::path& directory, const OutputJob& job) {
  std::set<fs::path> sources;
  for (const fs::path& path : job.source_paths) {
    for (fs::path& place : PlacesOf(path)) sources.insert(std::move(place));
  }
  for (const std::string& name : job.writes) {
    RequireDirectories(directory, name);
    const fs::path path = directory / name;
    std::error_code error;
    if (fs::is_directory(fs::symlink_status(path, error))) {
      RefuseOutput(directory, fmt::format("{} is a directory, and this command writes a file of "
                                          "that name; move it away, or choose another directory",
                                          name));
    }
    if (formats::EntryExists(path) && sources.count(PlaceOf(path)) != 0) {
      RefuseOutput(directory, fmt::format("{} is a file of the source, which a link leads to; "
                                          "--overwrite would delete it; choose another directory",
                                          name));
    }
  }
}

FilesToReplace FindFilesToReplace(const fs::path& directory, const OutputJob& job,
                                  const EndedJobs& ended, const JobJournals& journals,
                                  ProgressSink& progress, const StopToken& stop) {
  std::set<std::string> replaced;
  std::set<std::string> changed;
  for (std::string& name : FilesInTheWay(directory, job, {})) replaced.insert(std::move(name));
  for (const BegunRun& run : journals.runs) {
    replaced.insert(run.head.replaced.begin(), run.head.replaced.end());
    for (const std::string& name : run.head.outputs) replaced.insert(PartialName(name));
  }
  const auto add = [&](const FileRecord& record, fs::file_time_type recorded) {
    const fs::path path = directory / record.name;
    const std::optional<std::uint64_t> bytes = FileBytes(path);
    if (!bytes || replaced.count(record.name) != 0) return;
    const bool has_digest = !record.file.sha256.empty() || !record.file.xxh3.empty();
    // A copy of a directory has new times, too.
    const bool same =
        *bytes == record.bytes &&
        (TimeOf(path) <= recorded || (has_digest && MatchesRecord(path, record, progress, stop)));
    (same ? replaced : changed).insert(record.name);
  };
  for (const auto& [last, manifest] : ended) {
    if (!manifest) continue;
    const fs::file_time_type recorded = TimeOf(directory / last);
    for (const formats::ManifestFile& file : manifest->files) {
      FileRecord record;
      record.name = file.name;
      record.bytes = file.bytes;
      record.file.sha256 = file.sha256;
      add(record, recorded);
    }
    replaced.emplace(last);
  }
  fs::file_time_type recorded = fs::file_time_type::min();
  for (const BegunRun& run : journals.runs) {
    recorded = std::max(recorded, TimeOf(directory / FileNameOf(kJournalName, run.name)));
  }
  for (const auto& [name, record] : journals.files) add(record, recorded);
  for (const std::string& name : replaced) changed.erase(name);
  return {.replaced = {replaced.begin(), replaced.end()},
          .changed = {changed.begin(), changed.end()}};
}

}  // namespace dsv3::convert
