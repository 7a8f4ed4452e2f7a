#include "convert/open/value_checkpoint.h"

#include <algorithm>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/open/completeness.h"
#include "convert/open/unfinished.h"
#include "convert/open/whole_model.h"
#include "formats/checkpoint_check.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::kConfigName;
using formats::kMaxConfigBytes;

ModelConfig ReadConfig(const fs::path& directory, formats::Findings& findings) {
  const fs::path path = directory / kConfigName;
  std::error_code ignored;
  if (fs::symlink_status(path, ignored).type() == fs::file_type::not_found) return {};
  try {
    return ParseModelConfig(formats::ReadSmallFile(path, kMaxConfigBytes), kConfigName);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    formats::Finding finding;
    finding.kind = "unreadable-config";
    finding.file = kConfigName;
    finding.message = error.message();
    findings.push_back(std::move(finding));
    return {};
  }
}

// Adds what is not finished or missing in a directory that was named as a whole.
void JudgeDirectory(const formats::CheckpointFiles& files, const ModelConfig& config,
                    const Catalog& catalog, formats::Findings& findings) {
  const bool all_there = findings.empty();
  AddUnlessKnown(FindUnfinished(files.directory), findings);
  AddUnlessKnown(FindMissingFiles(files), findings);
  if (!all_there) return;
  if (auto missing = FindMissingTensors(config, catalog, files.form)) findings.push_back(*missing);
}

}  // namespace

ValueCheckpoint OpenForValues(const fs::path& path) {
  RefuseUnfinishedConversion(path);
  RefuseRankDirectory(path);
  formats::CheckpointFiles files = formats::OpenCheckpointFiles(path);
  formats::DropSecondCopies(files);
  formats::Findings findings;
  for (formats::Finding& finding : files.findings) {
    if (finding.severity == formats::Severity::kError) findings.push_back(std::move(finding));
  }
  ModelConfig config = ReadConfig(files.directory, findings);
  Catalog catalog = Catalog::FromCheckpoint(files);
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) JudgeDirectory(files, config, catalog, findings);
  ScaledWeights scaled = FindScaledWeights(catalog, config);
  return {files.directory, std::move(catalog), std::move(config), std::move(scaled),
          std::move(findings)};
}

void RequireWhole(const ValueCheckpoint& checkpoint) {
  constexpr std::string_view kOthers = "such faults; dsv3-verify structure lists them";
  formats::RequireNoErrors(checkpoint.files, {kOthers, kOthers},
                           fmt::format("{}: ", checkpoint.directory.string()));
}

}  // namespace dsv3::convert
