#include "convert/job/one_file_output.h"

#include <cstddef>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/manifest.h"
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

bool IsSameJob(const fs::path& manifest, const Plan& plan, const Catalog& catalog,
               const RunOptions& run) {
  std::error_code ignored;
  if (!fs::is_regular_file(manifest, ignored)) return false;
  try {
    const formats::Manifest found = formats::ParseManifest(
        formats::ReadSmallFile(manifest, formats::kMaxManifestBytes), manifest.string());
    return formats::ManifestJobText(found.job) ==
           formats::ManifestJobText(ManifestJobOf(plan, catalog, run));
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

bool OneFileOutput::IsFinished(const Plan& plan, const Catalog& catalog, const RunOptions& run,
                               formats::FileSystem& file_system) const {
  // The file has its name, and what is left to do is the manifest's, or to remove the directory.
  std::error_code error;
  const bool is_between =
      IsThere(output_) && IsThere(directory_) && !IsThere(directory_ / output_.filename()) &&
      (IsThere(directory_ / kManifestName) || (fs::is_empty(directory_, error) && !error));
  if (is_between && !run.dry_run) Place(file_system);
  if (overwrite_ || !IsThere(output_)) return false;
  std::error_code ignored;
  if (fs::is_regular_file(output_, ignored) && IsSameJob(manifest_, plan, catalog, run) &&
      HasPlannedHeader(output_, plan.files[0])) {
    return true;
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: the file is there, and this command did not make it from this "
                          "input with these options; name another file, or give --overwrite to "
                          "replace it",
                          formats::ShownPath(output_)),
              {output_.string(), ""});
}

void OneFileOutput::Place(formats::FileSystem& file_system) const {
  const fs::path made = directory_ / output_.filename();
  if (IsThere(made)) {
    // A manifest never lies beside a file that it does not describe.
    if (IsThere(manifest_)) file_system.Remove(manifest_);
    file_system.Rename(made, output_);
  }
  if (IsThere(directory_ / kManifestName)) {
    file_system.Rename(directory_ / kManifestName, manifest_);
  }
  const fs::path parent = output_.parent_path();
  file_system.SyncDirectory(parent.empty() ? fs::path(".") : parent);
  if (IsThere(directory_)) file_system.RemoveDirectory(directory_);
}

}  // namespace dsv3::convert
