#include "convert/verify/structure.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/catalog/catalog.h"
#include "convert/model/activation_scales.h"
#include "convert/model/quantized_form.h"
#include "convert/model/scaled_weights.h"
#include "convert/model/unknown_quantization.h"
#include "convert/open/base_tensors.h"
#include "convert/open/broken_files.h"
#include "convert/open/completeness.h"
#include "convert/open/open_model.h"
#include "convert/open/unlisted_tensors.h"
#include "convert/verify/structure_assembled.h"
#include "convert/verify/structure_config.h"
#include "convert/verify/structure_model.h"
#include "convert/verify/unreadable_tensors.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::CheckpointFiles;
using formats::Finding;
using formats::Findings;
using formats::Severity;
using formats::ShardFile;

bool IsReadable(const ShardFile& shard) { return shard.header.file_bytes != 0; }

// A file beside the shards that the index lists, which holds the same or other tensors: programs
// that read every *.safetensors file take it for one of them.
void JudgeUnlisted(const CheckpointFiles& files, const Catalog& catalog, Finding& finding) {
  const auto file =
      std::lower_bound(files.unlisted.begin(), files.unlisted.end(), finding.file,
                       [](const ShardFile& a, const std::string& name) { return a.name < name; });
  // One in a subdirectory, which nothing reads by mistake.
  if (file == files.unlisted.end() || file->name != finding.file) return;
  const auto& tensors = file->header.tensors;
  const auto in_shards = std::count_if(tensors.begin(), tensors.end(), [&](const auto& tensor) {
    return catalog.Find(tensor.name) != Catalog::kNone;
  });
  finding.severity = Severity::kError;
  // What no listed shard holds would be lost with the file.
  const bool all_in_shards = static_cast<std::size_t>(in_shards) == tensors.size();
  const std::string_view of_checkpoint =
      files.index ? std::string_view("listed shards") : std::string_view(files.shards.front().name);
  finding.message = fmt::format(
      "{}: {}; it {}; programs that read every *.safetensors file would load it too: {}",
      formats::ShownPath(finding.file),
      files.index ? std::string("the index does not list this file")
                  : fmt::format("without an index loaders take {} alone", of_checkpoint),
      IsReadable(*file) ? fmt::format("holds {} tensor{}, {} of them also in {}", tensors.size(),
                                      tensors.size() == 1 ? "" : "s", in_shards, of_checkpoint)
                        : std::string("cannot be read"),
      all_in_shards    ? "remove it, or take the index that lists it"
      : in_shards == 0 ? "take an index that lists it, for no other file holds its tensors"
                       : "take an index that lists it; no other file holds its other tensors");
}

// What a conversion may pass over and a check must not.
void JudgeStrictly(const CheckpointFiles& files, const Catalog& catalog, Findings& findings) {
  for (Finding& finding : findings) {
    if (finding.kind == "unlisted-shard") JudgeUnlisted(files, catalog, finding);
    if (finding.kind == "wrong-total-size") finding.severity = Severity::kError;
  }
}

void JudgeNames(const CheckpointFiles& files, Findings& findings) {
  for (const ShardFile& shard : files.shards) {
    if (!IsReservedName(shard.name)) continue;
    findings.push_back(
        {.severity = Severity::kError,
         .kind = "reserved-shard-name",
         .file = shard.name,
         .tensor = {},
         .message = fmt::format("{}: a shard cannot have this name, which dsv3 needs for files of "
                                "its own; rename the shard and correct the index",
                                formats::ShownPath(shard.name)),
         .unreadable = false});
  }
}

// What is not finished, but for shards that have such a name.
void NoteUnfinished(const CheckpointFiles& files, const Findings& unfinished, Findings& findings) {
  for (const Finding& finding : unfinished) {
    const auto shard =
        std::lower_bound(files.shards.begin(), files.shards.end(), finding.file,
                         [](const ShardFile& a, const std::string& b) { return a.name < b; });
    if (shard == files.shards.end() || shard->name != finding.file) findings.push_back(finding);
  }
}

// Files by name, and within one its tensors in the order of its data: first what concerns no
// tensor, last those that are not there.
void Order(const Catalog& catalog, Findings& findings) {
  std::vector<std::uint64_t> places(findings.size());
  for (std::size_t i = 0; i < findings.size(); ++i) {
    if (findings[i].tensor.empty()) continue;
    places[i] = std::uint64_t{1} + catalog.Find(findings[i].tensor);
  }
  std::vector<std::size_t> order(findings.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const int files = findings[a].file.compare(findings[b].file);
    return files != 0 ? files < 0 : places[a] < places[b];
  });
  Findings ordered;
  ordered.reserve(findings.size());
  for (const std::size_t i : order) ordered.push_back(std::move(findings[i]));
  findings = std::move(ordered);
}

std::vector<std::string> FileNames(const CheckpointFiles& files) {
  std::vector<std::string> names;
  names.reserve(files.shards.size() + files.unlisted.size());
  for (const ShardFile& shard : files.shards) names.push_back(shard.name);
  for (const ShardFile& shard : files.unlisted) names.push_back(shard.name);
  std::error_code ignored;
  for (const std::string_view name : {std::string_view("config.json"), formats::kShardIndexName}) {
    const auto type = std::filesystem::symlink_status(files.directory / name, ignored).type();
    if (type != std::filesystem::file_type::not_found) names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

StructureReport JudgeCheckpoint(OpenedModel& model) {
  const CheckpointFiles& files = *model.files;
  StructureReport report;
  report.verification.check = "structure";
  report.verification.files = FileNames(files);
  report.directory = model.directory;
  report.tensors = model.catalog.tensors().size() + model.second_copies;
  for (const ShardFile& shard : files.shards) {
    report.tensor_bytes += shard.header.file_bytes - shard.header.data_offset;
  }

  Findings& findings = report.verification.findings;
  const UnreadableTensors unreadable(files);
  const Catalog& catalog = model.catalog;
  findings = std::move(model.findings);
  JudgeStrictly(files, catalog, findings);
  JudgeNames(files, findings);
  NoteUnfinished(files, model.unfinished, findings);

  if (const std::optional<StructureConfig> config = ConfigOf(model, findings)) {
    report.model_type = config->model.model_type;
    report.known_model = config->model.known;
    const ScaledWeights scales = FindScaledWeights(catalog, config->model);
    findings.insert(findings.end(), scales.findings.begin(), scales.findings.end());
    if (auto unknown = FindUnknownQuantization(catalog, config->model, scales)) {
      findings.push_back(std::move(*unknown));
    }
    // What a known model holds is compared below; a missing shard may explain more.
    if (!config->model.known && !unreadable.any()) {
      if (auto codes = FindUnexplainedCodes(catalog, scales)) findings.push_back(std::move(*codes));
    }
    if (!unreadable.any()) {
      formats::Findings uneven = FindUnevenActivationScales(catalog, scales);
      std::move(uneven.begin(), uneven.end(), std::back_inserter(findings));
    }
    report.forms = scales.forms;
    report.expected_tensors =
        CompareWithModel(*config, catalog, scales, !unreadable.any(), findings);
    if (!unreadable.any()) CheckLeftoverQuantization(config->model, catalog, findings);
  }
  AddUnlessKnown(std::move(model.missing_files), findings);
  NameUnlistedHolders(model.unlisted, findings);
  RemoveBlindFindings(unreadable, findings);
  Order(catalog, findings);
  return report;
}

// Whatever else is missing or contradicts the rest comes with the files that are to come.
StructureReport ReportHalfMade(OpenedModel& model) {
  StructureReport report;
  report.verification = {"structure", {}, std::move(model.unfinished)};
  report.directory = model.directory;
  return report;
}

}  // namespace

StructureReport VerifyStructure(const StructureRequest& request) {
  const OpenOptions opening{.faults = OpenOptions::Faults::kReportAll,
                            .config = request.config,
                            .takes_config = true,
                            .gguf = OpenOptions::Gguf::kModelNames,
                            .from = request.from,
                            .base = request.base};
  OpenedModel model = OpenModel(request.input, opening);
  if (model.half_made) return ReportHalfMade(model);
  if (!model.fault) RequireUsed(opening, model);
  RequireBaseRead(request.base, ReadsBase(TensorsOf(model)));
  AddBrokenSideFiles(model.directory, model.side_files, Severity::kError, model.findings);
  if (model.files) return JudgeCheckpoint(model);
  if (model.gguf) return JudgeGguf(model);
  return model.ranks ? JudgeRanks(model) : JudgeTraining(model);
}

}  // namespace dsv3::convert
