#include "convert/verify/structure_assembled.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/catalog/name_pattern.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/model_check.h"
#include "convert/model/model_config.h"
#include "convert/open/gguf_config.h"
#include "convert/open/gguf_model.h"
#include "convert/verify/gguf_tensors.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {
namespace {

using formats::Finding;
using formats::Findings;
using formats::RankLayout;
using formats::Severity;

Finding FaultFinding(std::string_view kind, std::string_view file, const Error& error) {
  return {.severity = Severity::kError,
          .kind = std::string(kind),
          .file = std::string(file),
          .tensor = error.place().tensor,
          .message = error.message(),
          .unreadable = false};
}

std::vector<std::string> FilesOf(const RankLayout& layout) {
  std::set<std::string> names = {std::string(formats::kRankLayoutName)};
  for (const formats::LayoutFile& file : layout.files) names.insert(file.name);
  for (const formats::LayoutSideFile& file : layout.side_files) names.insert(file.name);
  return {names.begin(), names.end()};
}

// What a merge may pass over and a check must not.
void JudgeStrictly(Findings& findings) {
  for (Finding& finding : findings) {
    if (finding.kind != "unlisted-shard") continue;
    finding.severity = Severity::kError;
    finding.message = fmt::format(
        "{}: layout.json does not list this file; programs that read every *.safetensors file "
        "would load it too: remove it",
        formats::ShownPath(finding.file));
  }
}

// The model's tensors, each once; where they could not be put together, what the files hold.
void CountTensors(const OpenedModel& model, const Catalog& stored, StructureReport& report) {
  const Catalog& counted = model.catalog.tensors().empty() ? stored : model.catalog;
  for (const CatalogTensor& tensor : counted.tensors()) {
    ++report.tensors;
    report.tensor_bytes += tensor.extent.length;
  }
}

void DescribeModel(const OpenedModel& model, StructureReport& report) {
  report.model_type = model.config.model_type;
  report.known_model = model.config.known;
  if (!model.config.known) return;
  ForEachExpected(model.config, FindNamePrefix(model.catalog),
                  [&](const ExpectedTensorView&) { ++report.expected_tensors; });
}

// The model that sound ranks hold, against its config.
void CompareWithConfig(const OpenedModel& model, StructureReport& report) {
  const std::vector<std::string>& dropped = model.ranks->layout.dropped;
  for (Finding& finding : CheckAgainstModel(model.config, model.catalog)) {
    if (std::find(dropped.begin(), dropped.end(), finding.tensor) != dropped.end()) continue;
    // The files that would hold it were cut into ranks.
    finding.file = formats::kRankLayoutName;
    report.verification.findings.push_back(std::move(finding));
  }
}

}  // namespace

StructureReport JudgeRanks(OpenedModel& model) {
  StructureReport report;
  report.verification.check = "structure";
  const RankLayout& layout = model.ranks->layout;
  report.verification.files = FilesOf(layout);
  report.directory = model.directory;
  report.ranks = RankStructure{layout.format, layout.grouping, layout.sizes};
  CountTensors(model, model.ranks->stored, report);
  Findings& findings = report.verification.findings;
  findings = std::move(model.findings);
  JudgeStrictly(findings);
  std::move(model.unfinished.begin(), model.unfinished.end(), std::back_inserter(findings));
  if (model.fault) {
    findings.push_back(FaultFinding("bad-layout", formats::kRankLayoutName, *model.fault));
  } else if (model.assembled) {
    DescribeModel(model, report);
    CompareWithConfig(model, report);
  }
  std::stable_sort(findings.begin(), findings.end(),
                   [](const Finding& a, const Finding& b) { return a.file < b.file; });
  return report;
}

StructureReport JudgeTraining(OpenedModel& model) {
  StructureReport report;
  report.verification.check = "structure";
  report.directory = model.directory;
  report.training.emplace();
  Findings& findings = report.verification.findings;
  findings = std::move(model.findings);
  if (model.fault) {
    findings.push_back(
        FaultFinding("bad-training-checkpoint", model.fault->place().file, *model.fault));
    return report;
  }
  for (const SourceFile& file : model.assembled->stored.files()) {
    report.verification.files.push_back(file.name);
  }
  report.training->stack = model.training.stack;
  report.training->skipped = TotalOf(model.training.skipped);
  report.training->missing_mtp_layers = model.missing_mtp_layers;
  CountTensors(model, model.assembled->stored, report);
  DescribeModel(model, report);
  return report;
}

StructureReport JudgeGguf(const OpenedModel& model) {
  const GgufModel& gguf = *model.gguf;
  StructureReport report;
  report.verification.check = "structure";
  report.verification.findings = JudgeGgufTensors(model);
  report.directory = model.directory;
  report.is_gguf = true;
  report.model_type = GgufArchitectureOf(gguf);
  for (const SourceFile& file : gguf.stored.files()) {
    report.verification.files.push_back(file.name);
  }
  for (const CatalogTensor& tensor : gguf.stored.tensors()) {
    ++report.tensors;
    report.tensor_bytes += tensor.extent.length;
  }
  if (const std::optional<ModelConfig> config = ReadGgufConfig(gguf).config) {
    report.known_model = true;
    ForEachExpected(*config, "",
                    [&](const ExpectedTensorView& /*expected*/) { ++report.expected_tensors; });
  }
  return report;
}

}  // namespace dsv3::convert
