#include "convert/verify/value_checkpoint.h"

#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/open/completeness.h"
#include "convert/open/unfinished.h"
#include "formats/checkpoint_files.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

// Adds what is not finished or missing in a directory that was named as a whole.
void JudgeDirectory(const OpenedModel& model, formats::Findings& findings) {
  const bool all_there = findings.empty();
  AddUnlessKnown(model.unfinished, findings);
  AddUnlessKnown(model.missing_files, findings);
  if (!all_there || model.ranks) return;
  if (auto missing = FindMissingTensors(model.config, model.catalog, model.form)) {
    findings.push_back(*missing);
  }
}

}  // namespace

ValueCheckpoint OpenForValues(const std::filesystem::path& path) {
  RefuseUnfinishedConversion(path);
  ValueCheckpoint checkpoint;
  checkpoint.model = OpenModel(path, {.faults = OpenOptions::Faults::kReport});
  for (formats::Finding& finding : checkpoint.model.findings) {
    if (finding.severity == formats::Severity::kError) {
      checkpoint.files.push_back(std::move(finding));
    }
  }
  if (checkpoint.model.config_fault) {
    formats::Finding finding;
    finding.kind = "unreadable-config";
    finding.file = formats::kConfigName;
    finding.message = checkpoint.model.config_fault->message();
    checkpoint.files.push_back(std::move(finding));
  }
  checkpoint.model.findings.clear();
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    JudgeDirectory(checkpoint.model, checkpoint.files);
  }
  checkpoint.scaled = FindScaledWeights(checkpoint.model.catalog, checkpoint.model.config);
  return checkpoint;
}

void RequireWhole(const ValueCheckpoint& checkpoint) {
  constexpr std::string_view kOthers = "such faults; dsv3-verify structure lists them";
  formats::RequireNoErrors(checkpoint.files, {kOthers, kOthers},
                           fmt::format("{}: ", checkpoint.model.directory.string()));
}

}  // namespace dsv3::convert
