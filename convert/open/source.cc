#include "convert/open/source.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/model/expected_tensors.h"
#include "convert/open/unfinished.h"
#include "convert/open/whole_model.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/manifest.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::kConfigName;
using formats::kMaxConfigBytes;

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
              {kConfigName, ""});
}

}  // namespace

bool IsReservedName(std::string_view name) {
  return name == formats::kManifestName || name == formats::kShardIndexName ||
         name.ends_with(".partial") || name.starts_with(".dsv3-") ||
         name.find("/.dsv3-") != std::string_view::npos;
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

Source OpenSource(const fs::path& input, const std::vector<formats::FreedShard>& freed) {
  RefuseUnfinishedConversion(input);
  RefuseRankDirectory(input);
  formats::CheckpointFiles files = formats::OpenCheckpointFiles(input, freed);
  formats::RequireConsistent(files);
  CheckShardNames(files);
  std::string config_text = ReadConfigText(files);
  using Form = formats::CheckpointFiles::Form;
  const bool needs_index =
      files.form != Form::kSingle || files.shards[0].name != "model.safetensors";
  ModelConfig config = ParseModelConfig(config_text, kConfigName);
  Source source{
      files.directory,          std::move(files.side_files), needs_index,
      std::move(config_text),   std::move(config),           Catalog::FromCheckpoint(files),
      std::move(files.findings)};
  RequireModel(source.config, source.catalog, source.warnings);
  return source;
}

}  // namespace dsv3::convert
