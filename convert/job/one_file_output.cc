#include "convert/job/one_file_output.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/manifest.h"
#include "convert/job/output_lock.h"
#include "convert/job/run_id.h"
#include "convert/job/source_probe.h"
#include "convert/stream/source_files.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/io/dead_link.h"
#include "formats/io/existence.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

bool IsSameJob(const fs::path& manifest, const Plan& plan, const ModelTensors& source,
               const RunOptions& run) {
  std::error_code ignored;
  if (!fs::is_regular_file(manifest, ignored)) return false;
  try {
    const formats::Manifest found = formats::ParseManifest(
        formats::ReadSmallFile(manifest, formats::kMaxManifestBytes), manifest.string());
    return formats::ManifestJobText(found.job) ==
           formats::ManifestJobText(ManifestJobOf(plan, source, run));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput) throw;
    return false;
  }
}

bool HasPlannedHeader(const fs::path& path, const PlannedFile& file) {
  const formats::InputFile input(path, file.name);
  if (input.bytes() != file.bytes) return false;
  std::vector<std::byte> header(static_cast<std::size_t>(file.data_offset));
  input.ReadAt(0, header);
  return formats::Xxh3Hex(header) == file.header_digest;
}

// Locks of runs that were killed are left where nothing else is.
bool HoldsLocksAlone(const fs::path& directory) {
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (!RunOfFile(kLockName, entry->path().filename().string())) return false;
  }
  return !error;
}

}  // namespace

OneFileOutput::OneFileOutput(fs::path output, bool overwrite)
    : output_(std::move(output)),
      manifest_(output_.string() + ".manifest.json"),
      directory_(output_.string() + ".partial"),
      overwrite_(overwrite) {
  std::error_code ignored;
  if (fs::is_directory(output_, ignored)) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("{}: is a directory; name the file to write, such as {}",
                    formats::ShownPath(output_), formats::ShownPath(output_ / "model.gguf")),
        {output_.string(), ""});
  }
}

fs::path OneFileOutput::PlaceOf(const PlannedFile& file) const {
  return output_.parent_path() / file.name;
}

bool OneFileOutput::IsPlaced(const PlannedFile& file) const {
  std::error_code ignored;
  return fs::is_regular_file(PlaceOf(file), ignored) && HasPlannedHeader(PlaceOf(file), file);
}

// Whether each file either has its name or is complete beside the manifest, and one has its name
// already: what is left to do is Place's.
bool OneFileOutput::EndedWhilePlacing(const Plan& plan) const {
  if (!formats::EntryExists(directory_)) return false;
  bool placed = false;
  for (const PlannedFile& file : plan.files) {
    if (IsPlaced(file)) {
      placed = true;
    } else if (!formats::EntryExists(directory_ / file.name)) {
      return false;
    }
  }
  return placed &&
         (formats::EntryExists(directory_ / kManifestName) || HoldsLocksAlone(directory_));
}

// Two fine-tunings of one model have the same names, shapes and headers.
void OneFileOutput::RequireSameSource(const Plan& plan, const ModelTensors& source,
                                      const StopToken& stop) const {
  const std::optional<ManifestSummary> manifest = ReadManifestAt(manifest_);
  if (!manifest) return;
  SourceFiles sources(source.catalog, source.derived);
  const std::optional<OtherTensor> other = FindOtherTensor(*manifest, plan, source, sources, stop);
  if (!other) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: this command made the file of another IN: tensor {} in {} has other "
                          "bytes than the one that it was made of; name another file, or give "
                          "--overwrite to replace it",
                          formats::ShownPath(output_), QuoteForMessage(other->name), other->file),
              {output_.string(), ""});
}

bool OneFileOutput::IsFinished(const Plan& plan, const ModelTensors& source, const RunOptions& run,
                               formats::FileSystem& file_system, const StopToken& stop) const {
  if (EndedWhilePlacing(plan)) {
    if (run.dry_run || !MayEnd(run)) return true;
    Place(plan, file_system);
  } else if (overwrite_) {
    return false;
  }
  const auto is_there = [&](const PlannedFile& file) {
    return formats::EntryExists(PlaceOf(file));
  };
  const auto found = std::find_if(plan.files.begin(), plan.files.end(), is_there);
  if (found == plan.files.end()) return false;
  const auto is_placed = [&](const PlannedFile& file) { return IsPlaced(file); };
  if (IsSameJob(manifest_, plan, source, run) &&
      std::all_of(plan.files.begin(), plan.files.end(), is_placed)) {
    if (!overwrite_) RequireSameSource(plan, source, stop);
    return true;
  }
  if (overwrite_) return false;
  const fs::path there = PlaceOf(*found);
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: the file is there, and this command did not make it from this "
                          "input with these options; name another file, or {}",
                          formats::ShownPath(there),
                          run.part || run.finish ? "remove it" : "give --overwrite to replace it"),
              {there.string(), ""});
}

void OneFileOutput::PlaceFiles(const Plan& plan, formats::FileSystem& file_system) const {
  const fs::path parent = output_.has_parent_path() ? output_.parent_path() : fs::path(".");
  const auto waits = [&](const PlannedFile& file) {
    return formats::EntryExists(directory_ / file.name);
  };
  // A manifest never lies beside a file that it does not describe.
  if (std::any_of(plan.files.begin(), plan.files.end(), waits) && formats::EntryExists(manifest_)) {
    file_system.Remove(manifest_);
    file_system.SyncDirectory(parent);
  }
  for (const PlannedFile& file : plan.files) {
    if (waits(file)) file_system.Rename(directory_ / file.name, PlaceOf(file));
  }
  // The names in both directories: first those that come, then those that go.
  file_system.SyncDirectory(parent);
  if (formats::EntryExists(directory_ / kManifestName)) {
    file_system.Rename(directory_ / kManifestName, manifest_);
    file_system.SyncDirectory(parent);
  }
  file_system.SyncDirectory(directory_);
}

void OneFileOutput::Place(const Plan& plan, formats::FileSystem& file_system) const {
  // Another run that ends this job may have done it.
  if (!formats::EntryExists(directory_)) return;
  {
    const RunLocks locks(directory_, RunId());
    PlaceFiles(plan, file_system);
  }
  file_system.RemoveDirectory(directory_);
}

}  // namespace dsv3::convert
