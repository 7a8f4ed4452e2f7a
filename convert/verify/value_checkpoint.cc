#include "convert/verify/value_checkpoint.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/open/completeness.h"
#include "convert/open/missing_tensors.h"
#include "convert/open/unfinished.h"
#include "convert/open/unlisted_tensors.h"
#include "convert/verify/unreadable_tensors.h"
#include "formats/checkpoint_files.h"
#include "formats/message_text.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

// Adds what is not finished or missing in a directory that was named as a whole.
void JudgeDirectory(const OpenedModel& model, formats::Findings& findings) {
  const bool all_there = findings.empty();
  AddUnlessKnown(model.unfinished, findings);
  AddUnlessKnown(model.missing_files, findings);
  if (!all_there || model.assembled) return;
  if (auto missing = FindMissingTensors(model.config, model.catalog)) {
    findings.push_back(*std::move(missing));
    NameUnlistedHolders(model.unlisted, findings);
  }
}

// Leaves out what only says that a tensor is missing which a shard may hold that is missing, too,
// or cannot be read.
void RemoveBlind(const std::filesystem::path& path, ValueCheckpoint& checkpoint) {
  const bool is_checkpoint = !checkpoint.model.assembled && !checkpoint.model.gguf;
  const bool lacks_shards =
      std::any_of(checkpoint.files.begin(), checkpoint.files.end(), [](const auto& finding) {
        return finding.kind == "missing-shard" || finding.kind == "unreadable-shard" ||
               finding.kind == "shard-io-error";
      });
  if (!is_checkpoint || !lacks_shards || checkpoint.scaled.findings.empty()) return;
  const formats::CheckpointFiles files =
      formats::OpenCheckpointFiles(path, {}, formats::FaultyIndex::kReport);
  RemoveBlindFindings(UnreadableTensors(files), checkpoint.scaled.findings);
}

// Sorts the weights in other forms by whether their values can be decoded.
void TakeForms(ValueCheckpoint& checkpoint) {
  ScaledWeights& scaled = checkpoint.scaled;
  checkpoint.undecoded.resize(checkpoint.model.catalog.tensors().size());
  for (const ScaledWeights::FormedWeight& weight : scaled.formed) {
    const auto found = std::lower_bound(
        scaled.readable.begin(), scaled.readable.end(), weight.weight,
        [](const ScaledWeight& pair, std::uint32_t position) { return pair.weight < position; });
    const bool decoded = found != scaled.readable.end() && found->weight == weight.weight;
    if (!decoded && checkpoint.undecoded[weight.weight]) continue;
    checkpoint.undecoded[weight.weight] = !decoded;
    CountForm(scaled.forms[weight.form].name, decoded, checkpoint.forms);
  }
  scaled.pairs.insert(scaled.pairs.end(), scaled.readable.begin(), scaled.readable.end());
  std::sort(scaled.pairs.begin(), scaled.pairs.end(),
            [](const ScaledWeight& a, const ScaledWeight& b) { return a.weight < b.weight; });
}

}  // namespace

ValueCheckpoint OpenForValues(const std::filesystem::path& path, const OpenOptions& options) {
  RefuseUnfinishedConversion(path);
  ValueCheckpoint checkpoint;
  OpenOptions opening = options;
  opening.faults = OpenOptions::Faults::kReport;
  opening.takes_config = true;
  opening.gguf = OpenOptions::Gguf::kModelNames;
  checkpoint.model = OpenModel(path, opening);
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
  RemoveBlind(path, checkpoint);
  TakeForms(checkpoint);
  return checkpoint;
}

void RequireWhole(const ValueCheckpoint& checkpoint) {
  constexpr std::string_view kOthers = "such faults; dsv3-verify structure lists them";
  formats::RequireNoErrors(checkpoint.files, {kOthers, kOthers},
                           fmt::format("{}: ", formats::ShownPath(checkpoint.model.directory)));
}

}  // namespace dsv3::convert
