#include "convert/source.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/execute/manifest.h"
#include "convert/execute/source_release.h"
#include "convert/model/expected_tensors.h"
#include "convert/recipes/whole_model.h"
#include "formats/error.h"
#include "formats/require_no_errors.h"

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

[[noreturn]] void RefuseOutput(const fs::path& output, std::string_view problem) {
  throw Error(
      ErrorCode::kUsage,
      fmt::format("{}: {}; name a directory of its own for the output", output.string(), problem),
      {output.string(), ""});
}

void RequireConfig(const formats::CheckpointFiles& files) {
  if (files.HasConfig()) return;
  const fs::path path = files.directory / kConfigName;
  std::error_code ignored;
  // Something else of that name says itself what it is.
  if (fs::exists(fs::symlink_status(path, ignored))) formats::ReadSmallFile(path, 0);
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: there is no config.json, which tells the block size of the "
                          "scales; copy it from where these weights came from",
                          files.directory.string()),
              {std::string(kConfigName), ""});
}

}  // namespace

bool IsReservedName(std::string_view name) {
  return name == kManifestName || name == formats::kShardIndexName || name.ends_with(".partial") ||
         name.starts_with(".dsv3-") || name.find("/.dsv3-") != std::string_view::npos;
}

fs::path CanonicalPath(const fs::path& path) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  const fs::path canonical = error ? fs::path() : fs::weakly_canonical(absolute, error);
  if (error == std::errc::permission_denied) throw IoError("find", path.string(), error.value());
  if (error) {
    throw Error(ErrorCode::kUsage,
                fmt::format("'{}': {}; name another directory", path.string(), error.message()),
                {path.string(), ""});
  }
  // "dir/" and "dir" are one place.
  return canonical.has_filename() ? canonical : canonical.parent_path();
}

void RequireApart(const fs::path& input_directory, const fs::path& output) {
  const fs::path in = CanonicalPath(input_directory);
  const fs::path out = CanonicalPath(output);
  if (in == out) RefuseOutput(output, "the output directory is the input directory");
  if (IsInside(out, in)) {
    RefuseOutput(output, fmt::format("the output directory lies inside the input directory {}",
                                     in.string()));
  }
  if (IsInside(in, out)) {
    RefuseOutput(output, fmt::format("the input directory {} lies inside the output directory",
                                     in.string()));
  }
}

void RequirePlaces(const fs::path& input, const fs::path& directory, const fs::path& output) {
  std::error_code ignored;
  RequireApart(directory, output);
  if (fs::is_directory(input, ignored)) RequireApart(input, output);
  for (fs::path parent = CanonicalPath(output).parent_path(); parent.has_relative_path();
       parent = parent.parent_path()) {
    if (!fs::exists(parent, ignored)) continue;
    if (fs::is_directory(parent, ignored)) break;
    RefuseOutput(output, fmt::format("{} is not a directory", parent.string()));
  }
}

void RequireModel(const ModelConfig& config, const Catalog& catalog, formats::Findings& warnings) {
  const formats::Findings findings = CheckAgainstModel(config, catalog);
  formats::RequireNoErrors(findings, {"tensor is missing or of another shape",
                                      "tensors are missing or of another shape"});
  warnings.insert(warnings.end(), findings.begin(), findings.end());
}

void CheckShardNames(const formats::CheckpointFiles& files) {
  for (const formats::ShardFile& shard : files.shards) {
    if (!IsReservedName(shard.name)) continue;
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: a shard cannot have this name, which the output needs for files "
                            "of dsv3's own; rename the shard and correct the index",
                            shard.name),
                {shard.name, ""});
  }
}

std::string ReadConfigText(const formats::CheckpointFiles& files) {
  RequireConfig(files);
  return formats::ReadSmallFile(files.directory / kConfigName, kMaxConfigBytes);
}

Source OpenSource(const fs::path& input, const fs::path& output) {
  RefuseRankDirectory(input);
  formats::CheckpointFiles files = formats::OpenCheckpointFiles(input, ReadFreedShards(output));
  RequirePlaces(input, files.directory, output);
  formats::RequireConsistent(files);
  CheckShardNames(files);
  std::string config_text = ReadConfigText(files);
  using Form = formats::CheckpointFiles::Form;
  const bool needs_index =
      files.form != Form::kSingle || files.shards[0].name != "model.safetensors";
  ModelConfig config = ParseModelConfig(config_text, std::string(kConfigName));
  Source source{
      files.directory,          std::move(files.side_files), needs_index,
      std::move(config_text),   std::move(config),           Catalog::FromCheckpoint(files),
      std::move(files.findings)};
  RequireModel(source.config, source.catalog, source.warnings);
  return source;
}

}  // namespace dsv3::convert
