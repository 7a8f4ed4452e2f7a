#include "convert/source.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/execute/source_release.h"
#include "convert/model/expected_tensors.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kConfigName = "config.json";
constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{64} << 20;

bool IsInside(const fs::path& path, const fs::path& directory) {
  const auto [end, unused] =
      std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  return end == directory.end();
}

void CheckPlaces(const fs::path& input_directory, const fs::path& output) {
  const fs::path in = CanonicalPath(input_directory);
  const fs::path out = CanonicalPath(output);
  std::string problem;
  if (in == out) {
    problem = "the output directory is the input directory";
  } else if (IsInside(out, in)) {
    problem = fmt::format("the output directory lies inside the input directory {}", in.string());
  } else if (IsInside(in, out)) {
    problem = fmt::format("the input directory {} lies inside the output directory", in.string());
  } else {
    return;
  }
  throw Error(
      ErrorCode::kUsage,
      fmt::format("{}: {}; name a directory of its own for the output", output.string(), problem),
      {output.string(), ""});
}

// Throws the first error, counting the others; adds warnings to `warnings`.
void RequireModel(const formats::Findings& findings, formats::Findings& warnings) {
  const formats::Finding* first = nullptr;
  std::size_t others = 0;
  for (const formats::Finding& finding : findings) {
    if (finding.severity == formats::Severity::kWarning) {
      warnings.push_back(finding);
    } else if (first == nullptr) {
      first = &finding;
    } else {
      ++others;
    }
  }
  if (first == nullptr) return;
  std::string message = first->message;
  if (others != 0) {
    message += fmt::format(" ({} more {} missing or of another shape)", others,
                           others == 1 ? "tensor is" : "tensors are");
  }
  throw Error(ErrorCode::kBadInput, message, {first->file, first->tensor});
}

}  // namespace

fs::path CanonicalPath(const fs::path& path) {
  std::error_code error;
  fs::path canonical = fs::weakly_canonical(fs::absolute(path), error);
  if (error) canonical = fs::absolute(path).lexically_normal();
  // "dir/" and "dir" are one place.
  return canonical.has_filename() ? canonical : canonical.parent_path();
}

Source OpenSource(const fs::path& input, const fs::path& output) {
  formats::CheckpointFiles files = formats::OpenCheckpointFiles(input, ReadFreedShards(output));
  CheckPlaces(files.directory, output);
  formats::RequireConsistent(files);
  if (!files.HasConfig()) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: there is no config.json, which tells the block size of the "
                            "scales; copy it from where these weights came from",
                            files.directory.string()),
                {std::string(kConfigName), ""});
  }
  using Form = formats::CheckpointFiles::Form;
  const bool needs_index =
      files.form != Form::kSingle || files.shards[0].name != "model.safetensors";
  std::string config_text = formats::ReadSmallFile(files.directory / kConfigName, kMaxConfigBytes);
  ModelConfig config = ParseModelConfig(config_text, std::string(kConfigName));
  Source source{
      files.directory,          std::move(files.side_files), needs_index,
      std::move(config_text),   std::move(config),           Catalog::FromCheckpoint(files),
      std::move(files.findings)};
  RequireModel(CheckAgainstModel(source.config, source.catalog), source.warnings);
  return source;
}

}  // namespace dsv3::convert
