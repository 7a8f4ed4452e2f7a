#include "convert/verify/structure_ranks.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/model/expected_tensors.h"
#include "convert/open/open_model.h"
#include "convert/open/rank_directory.h"
#include "convert/open/rank_model.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Finding;
using formats::Findings;
using formats::RankLayout;
using formats::Severity;

Finding LayoutFinding(const Error& error) {
  Finding finding;
  finding.kind = "bad-layout";
  finding.file = formats::kRankLayoutName;
  finding.tensor = error.place().tensor;
  finding.message = error.message();
  return finding;
}

std::vector<std::string> FilesOf(const RankLayout& layout) {
  std::set<std::string> names = {std::string(formats::kRankLayoutName)};
  for (const formats::LayoutFile& file : layout.files) names.insert(file.name);
  for (const formats::LayoutSideFile& file : layout.side_files) names.insert(file.name);
  return {names.begin(), names.end()};
}

// What a merge may pass over and a check must not.
void JudgeOthers(Findings others, Findings& findings) {
  for (Finding& finding : others) {
    if (finding.kind == "unlisted-shard") {
      finding.severity = Severity::kError;
      finding.message = fmt::format(
          "{}: layout.json does not list this file; programs that read every *.safetensors file "
          "would load it too: remove it",
          formats::ShownPath(finding.file));
    }
    findings.push_back(std::move(finding));
  }
}

// The model that sound ranks hold, against its config.
void JudgeModel(RankDirectory ranks, StructureReport& report) {
  const RankModel model = AssembleRankModel(std::move(ranks));
  const ModelConfig& config = model.config;
  report.model_type = config.model_type;
  report.known_model = config.known;
  const std::vector<std::string>& dropped = model.shards.layout.dropped;
  for (Finding& finding : CheckAgainstModel(config, model.catalog)) {
    if (std::find(dropped.begin(), dropped.end(), finding.tensor) != dropped.end()) continue;
    // The files that would hold it were cut into ranks.
    finding.file = formats::kRankLayoutName;
    report.verification.findings.push_back(std::move(finding));
  }
  if (!config.known) return;
  ForEachExpected(config, FindNamePrefix(model.catalog),
                  [&](const ExpectedTensorView&) { ++report.expected_tensors; });
}

}  // namespace

StructureReport VerifyRankStructure(const fs::path& directory, Findings unfinished) {
  StructureReport report;
  report.verification.check = "structure";
  report.verification.files = {std::string(formats::kRankLayoutName)};
  report.directory = directory;
  report.ranks.emplace();
  Findings& findings = report.verification.findings;
  try {
    RankDirectory ranks = OpenRankDirectory(directory, findings);
    report.verification.files = FilesOf(ranks.layout);
    report.ranks = RankStructure{ranks.layout.format, ranks.layout.grouping, ranks.layout.sizes};
    for (const CatalogTensor& tensor : ranks.catalog.tensors()) {
      ++report.tensors;
      report.tensor_bytes += tensor.extent.length;
    }
    const bool sound = report.verification.Passes(/*strict=*/false);
    JudgeOthers(ranks.warnings, findings);
    std::move(unfinished.begin(), unfinished.end(), std::back_inserter(findings));
    // Slices of files that are not those of the layout say nothing about it.
    if (sound) JudgeModel(std::move(ranks), report);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput) throw;
    findings.push_back(LayoutFinding(error));
  }
  std::stable_sort(findings.begin(), findings.end(),
                   [](const Finding& a, const Finding& b) { return a.file < b.file; });
  return report;
}

}  // namespace dsv3::convert
