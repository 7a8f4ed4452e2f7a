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
#include "convert/job/source_probe.h"
#include "convert/stream/source_files.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/io/dead_link.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

bool IsThere(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

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

// Whether each file either has its name or is complete beside the manifest, and one has its name
// already: what is left to do is Place's.
bool OneFileOutput::EndedWhilePlacing(const Plan& plan) const {
  if (!IsThere(directory_)) return false;
  std::size_t placed = 0;
  std::size_t waiting = 0;
  for (const PlannedFile& file : plan.files) {
    if (IsThere(directory_ / file.name)) {
      ++waiting;
    } else if (IsThere(PlaceOf(file))) {
      ++placed;
    }
  }
  if (placed == 0 || placed + waiting != plan.files.size()) return false;
  std::error_code error;
  return IsThere(directory_ / kManifestName) ||
         (waiting == 0 && fs::is_empty(directory_, error) && !error);
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
  if (!run.dry_run && EndedWhilePlacing(plan)) Place(plan, file_system);
  if (overwrite_) return false;
  const auto is_there = [&](const PlannedFile& file) { return IsThere(PlaceOf(file)); };
  const auto found = std::find_if(plan.files.begin(), plan.files.end(), is_there);
  if (found == plan.files.end()) return false;
  const auto is_planned = [&](const PlannedFile& file) {
    std::error_code ignored;
    return fs::is_regular_file(PlaceOf(file), ignored) && HasPlannedHeader(PlaceOf(file), file);
  };
  if (IsSameJob(manifest_, plan, source, run) &&
      std::all_of(plan.files.begin(), plan.files.end(), is_planned)) {
    RequireSameSource(plan, source, stop);
    return true;
  }
  const fs::path there = PlaceOf(*found);
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: the file is there, and this command did not make it from this "
                          "input with these options; name another file, or give --overwrite to "
                          "replace it",
                          formats::ShownPath(there)),
              {there.string(), ""});
}

void OneFileOutput::Place(const Plan& plan, formats::FileSystem& file_system) const {
  for (const PlannedFile& file : plan.files) {
    const fs::path made = directory_ / file.name;
    if (!IsThere(made)) continue;
    // A manifest never lies beside a file that it does not describe.
    if (IsThere(manifest_)) file_system.Remove(manifest_);
    file_system.Rename(made, PlaceOf(file));
  }
  if (IsThere(directory_ / kManifestName)) {
    file_system.Rename(directory_ / kManifestName, manifest_);
  }
  const fs::path parent = output_.parent_path();
  file_system.SyncDirectory(parent.empty() ? fs::path(".") : parent);
  if (IsThere(directory_)) file_system.RemoveDirectory(directory_);
}

}  // namespace dsv3::convert
