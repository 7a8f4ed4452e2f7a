#include "convert/job/finished_output.h"

#include <string>
#include <system_error>

#include "convert/job/journal.h"
#include "convert/job/manifest.h"
#include "convert/job/output_lock.h"
#include "convert/job/output_state.h"
#include "convert/job/packed_output.h"
#include "convert/job/source_release.h"
#include "convert/plan/container.h"
#include "formats/io/existence.h"

namespace dsv3::convert {

namespace fs = std::filesystem;

bool HasLeftovers(const fs::path& output) {
  return !FindRuns(output, kJournalName).empty() ||
         formats::Exists(output / PartialName(std::string(kJournalName))) ||
         !FindRuns(output, kLockName).empty() || !ReadFreedShards(output).empty();
}

void RemoveLeftovers(const fs::path& output, formats::FileSystem& file_system) {
  RemoveFreedShards(output, file_system);
  RemoveJournals(output, /*but_the_jobs=*/false, file_system);
}

std::optional<ConversionReport> FinishedWithoutSource(const fs::path& input, const fs::path& output,
                                                      const std::string& recipe,
                                                      formats::FileSystem& file_system) {
  const std::optional<ManifestSummary> manifest =
      recipe == kPackRecipe ? ReadPackedOutput(output) : ReadManifest(output);
  if (!manifest || manifest->job.recipe != recipe || manifest->source_files.empty()) {
    return std::nullopt;
  }
  std::error_code ignored;  // opening the input has met it
  const fs::path directory = fs::is_directory(input, ignored) ? input : input.parent_path();
  for (const std::string& name : manifest->source_files) {
    if (formats::Exists(directory / name)) return std::nullopt;
  }
  ConversionReport report;
  report.outcome = ConversionReport::Outcome::kNothingToDo;
  report.recipe = recipe;
  for (const formats::ManifestFile& file : manifest->files) {
    std::error_code error;
    if (fs::file_size(output / file.name, error) != file.bytes || error) return std::nullopt;
    if (ContainerOf(file.name) == nullptr && !IsPackedName(file.name)) continue;
    report.files.push_back({file.name, file.bytes, 0, "", true});
    report.output_bytes += file.bytes;
    ++report.kept_files;
  }
  if (HasLeftovers(output)) {
    const RunLocks locks(output, RunId());
    RemoveLeftovers(output, file_system);
  }
  return report;
}

}  // namespace dsv3::convert
