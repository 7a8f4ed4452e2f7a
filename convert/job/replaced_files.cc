#include "convert/job/replaced_files.h"

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>

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

std::vector<std::string> FilesToReplace(const fs::path& directory, const OutputJob& job,
                                        const EndedJobs& ended, const JobJournals& journals) {
  std::set<std::string> replaced;
  for (std::string& name : FilesInTheWay(directory, job, {})) replaced.insert(std::move(name));
  // A file that this job does not write, and that was changed since, stays.
  const auto add = [&](const std::string& name, std::uint64_t bytes) {
    if (FileBytes(directory / name) == bytes) replaced.insert(name);
  };
  for (const auto& [last, manifest] : ended) {
    if (!manifest) continue;
    for (const formats::ManifestFile& file : manifest->files) add(file.name, file.bytes);
    replaced.emplace(last);
  }
  for (const auto& [name, record] : journals.files) add(name, record.bytes);
  for (const BegunRun& run : journals.runs) {
    replaced.insert(run.head.replaced.begin(), run.head.replaced.end());
    for (const std::string& name : run.head.outputs) replaced.insert(PartialName(name));
  }
  return {replaced.begin(), replaced.end()};
}

}  // namespace dsv3::convert
