#include <algorithm>
#include <atomic>
#include <mutex>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include "convert/job/commit.h"
#include "convert/job/output_state.h"
#include "convert/stream/file_hash.h"
#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/io/stream_file.h"

namespace dsv3::convert {
bool MatchesRecord(const std::filesystem::path& path, const FileRecord& record,
                   ProgressSink& progress, const StopToken& stop) {
  const formats::InputFile input(path, record.name);
  if (input.bytes() != record.bytes) return false;
  const bool use_sha256 = !record.file.sha256.empty();
  FileHash hash(use_sha256);
  formats::StreamFile(input, [&](std::span<const std::byte> part) {
    if (stop.stopped()) ThrowInterrupted();
    hash.Update(part);
    progress.OnBytes(part.size(), record.name);
  });
  const Digests found = hash.Finish();
  return found.sha256 == record.file.sha256 && found.xxh3 == record.file.xxh3;
}

std::map<std::string, FileRecord> CheckKeptFiles(const std::filesystem::path& directory,
                                                 const std::map<std::string, FileRecord>& records,
                                                 unsigned threads, bool sizes_only,
                                                 ProgressSink& progress, const StopToken& stop,
                                                 bool waits) {
  struct Present {
    const FileRecord* record;
    std::filesystem::path path;
  };
  std::vector<Present> present;
  std::uint64_t total_bytes = 0;
  for (const auto& [name, record] : records) {
    std::error_code error;
    std::filesystem::path path = directory / name;
    if (waits && !std::filesystem::exists(path, error)) path = directory / PartialName(name);
    // Gone: the run ended between the journal's line and the rename.
    if (!std::filesystem::is_regular_file(path, error)) continue;
    present.push_back({&record, std::move(path)});
    total_bytes += record.bytes;
  }
  if (!sizes_only && !present.empty()) {
    progress.OnPhase("checking finished files", total_bytes);
  }

  std::mutex mutex;
  std::map<std::string, FileRecord> kept;
  const tbb::global_control parallelism(tbb::global_control::max_allowed_parallelism, threads);
  tbb::task_arena arena(static_cast<int>(threads));
  arena.execute([&] {
    tbb::parallel_for(std::size_t{0}, present.size(), [&](std::size_t i) {
      const FileRecord& record = *present[i].record;
      const std::filesystem::path& path = present[i].path;
      const bool matches = sizes_only ? std::filesystem::file_size(path) == record.bytes
                                      : MatchesRecord(path, record, progress, stop);
      const std::lock_guard lock(mutex);
      if (matches) {
        kept.emplace(record.name, record);
      } else {
        progress.OnWarning(fmt::format(
            "{}: the file is not as the interrupted run wrote it; it is made again", record.name));
      }
    });
  });
  return kept;
}

}  // namespace dsv3::convert
