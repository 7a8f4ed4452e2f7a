#include "convert/job/finished_files.h"

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/output_state.h"
#include "convert/stream/file_digests.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// The digest to read for comparison with a record: SHA-256, or XXH3 of the whole file with
// checksums off.
FileToDigest WantedOf(const FileRecord& record, const std::filesystem::path& path) {
  FileToDigest wanted{record.name, path, !record.file.sha256.empty(), false, {}};
  if (!wanted.sha256) wanted.ranges.push_back({0, record.bytes});
  return wanted;
}

bool IsAsRecorded(const FileDigest& found, const FileRecord& record) {
  if (found.error) throw Error(*found.error);
  if (found.bytes != record.bytes) return false;
  return record.file.sha256.empty() ? found.ranges.at(0) == record.file.xxh3
                                    : found.sha256 == record.file.sha256;
}

}  // namespace

bool MatchesRecord(const std::filesystem::path& path, const FileRecord& record,
                   ProgressSink& progress, const StopToken& stop) {
  std::error_code error;
  if (std::filesystem::file_size(path, error) != record.bytes && !error) return false;
  return IsAsRecorded(DigestFiles({WantedOf(record, path)}, 1, progress, stop)[0], record);
}

std::map<std::string, FileRecord> CheckFinishedFiles(
    const std::filesystem::path& directory, const std::map<std::string, FileRecord>& records,
    unsigned threads, bool sizes_only, formats::Findings& warnings, ProgressSink& progress,
    const StopToken& stop, bool waits) {
  std::vector<const FileRecord*> present;
  std::vector<FileToDigest> wanted;
  std::uint64_t total_bytes = 0;
  std::map<std::string, FileRecord> finished;
  const auto judge = [&](const FileRecord& record, bool matches) {
    if (matches) {
      finished.emplace(record.name, record);
    } else {
      warnings.push_back(
          {formats::Severity::kWarning, "remade-file", record.name, "",
           fmt::format("{}: the file is not as the interrupted run wrote it; it is made again",
                       formats::ShownPath(record.name))});
    }
  };
  for (const auto& [name, record] : records) {
    std::error_code error;
    std::filesystem::path path = directory / name;
    if (waits && !formats::Exists(path)) path = directory / PartialName(name);
    // Gone: the run ended between the journal's line and the rename.
    if (!std::filesystem::is_regular_file(path, error)) continue;
    const bool has_its_size = std::filesystem::file_size(path, error) == record.bytes && !error;
    if (sizes_only || !has_its_size) {
      judge(record, has_its_size);
      continue;
    }
    present.push_back(&record);
    wanted.push_back(WantedOf(record, path));
    total_bytes += record.bytes;
  }
  if (present.empty()) return finished;
  progress.OnPhase("checking finished files", total_bytes);
  const std::vector<FileDigest> found = DigestFiles(wanted, threads, progress, stop);
  for (std::size_t i = 0; i < present.size(); ++i) {
    judge(*present[i], IsAsRecorded(found[i], *present[i]));
  }
  return finished;
}

}  // namespace dsv3::convert
