#include "convert/inspect/inspection.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <tbb/parallel_invoke.h>

#include "convert/catalog/glob.h"
#include "convert/model/expected_tensors.h"
#include "convert/open/completeness.h"
#include "convert/open/rank_directory.h"
#include "convert/open/rank_model.h"
#include "convert/open/unfinished.h"
#include "convert/open/whole_model.h"
#include "formats/checkpoint_check.h"
#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

using formats::Findings;
using formats::kConfigName;
using formats::kMaxConfigBytes;
using formats::Severity;

// The first finding that leaves the listing incomplete, as the error that it is.
void RequireReadable(const Findings& findings) {
  Findings unreadable;
  std::copy_if(findings.begin(), findings.end(), std::back_inserter(unreadable),
               [](const formats::Finding& finding) { return finding.unreadable; });
  constexpr std::string_view kOthers = "of the files cannot be read either";
  formats::RequireNoErrors(unreadable, {kOthers, kOthers});
}

std::optional<ModelConfig> ReadConfig(const formats::CheckpointFiles& files, Findings& findings) {
  if (!files.HasConfig()) {
    findings.push_back({Severity::kWarning, "no-config", kConfigName, "",
                        "config.json: there is none, so what the model should hold and which "
                        "parameters a token meets is not known"});
    return std::nullopt;
  }
  try {
    return ParseModelConfig(formats::ReadSmallFile(files.directory / kConfigName, kMaxConfigBytes),
                            kConfigName);
  } catch (const Error& e) {
    findings.push_back({Severity::kError, "bad-config", kConfigName, "", e.message()});
    return std::nullopt;
  }
}

// Compares FP8 weights with their scales, once for all tensors that share a line.
class ScaleCheck {
 public:
  ScaleCheck(const ModelConfig* config, Findings& findings) : findings_(findings) {
    if (config != nullptr && config->quantization) {
      block_ = config->quantization->weight_block_size;
    }
  }

  void Visit(const SummaryNode& node, const std::string& parent) {
    const std::string name = parent.empty() ? node.name : parent + "." + node.name;
    if (node.kind == SummaryNode::Kind::kTensor) Check(node, name);
    for (const SummaryNode& child : node.children) Visit(child, name);
  }

 private:
  void Check(const SummaryNode& node, const std::string& name) {
    const bool fp8 = node.dtype == formats::Dtype::kF8E4M3 || node.dtype == formats::Dtype::kF8E5M2;
    if (node.tensors == 0) {
      if (fp8) return;  // scales that are FP8 themselves
      Add(Severity::kWarning, "scale-without-weight", name,
          fmt::format("tensor '{}' is named like a scale, but no weight stands beside it", name));
      return;
    }
    if (!fp8) return;
    if (node.scales.empty()) {
      Add(Severity::kError, "missing-scale", name,
          fmt::format("tensor '{}' is FP8, but no scale stands beside it; without its scale "
                      "its values mean nothing",
                      name));
      return;
    }
    if (!block_ || node.shape.size() != 2) return;
    const formats::Shape expected = {NumBlocks(node.shape[0], block_->rows),
                                     NumBlocks(node.shape[1], block_->cols)};
    const TensorScale& scale = node.scales.front();
    if (scale.shape == expected) return;
    Add(Severity::kError, "wrong-scale-shape", name,
        fmt::format("tensor '{}' has shape {} and config.json names blocks of {}×{}, so '{}' "
                    "should have shape {}, but it has {}",
                    name, formats::ShapeToString(node.shape), block_->rows, block_->cols,
                    scale.name, formats::ShapeToString(expected),
                    formats::ShapeToString(scale.shape)));
  }

  static std::uint64_t NumBlocks(std::uint64_t size, std::uint64_t block) {
    return size / block + (size % block != 0 ? 1 : 0);
  }

  void Add(Severity severity, const char* kind, const std::string& tensor, std::string message) {
    findings_.push_back({severity, kind, "", tensor, std::move(message)});
  }

  std::optional<quant::BlockShape> block_;
  Findings& findings_;
};

// How many characters two names share at their ends.
std::size_t Similarity(std::string_view a, std::string_view b) {
  const std::size_t shorter = std::min(a.size(), b.size());
  std::size_t front = 0;
  while (front < shorter && a[front] == b[front]) ++front;
  std::size_t back = 0;
  while (back < shorter - front && a[a.size() - 1 - back] == b[b.size() - 1 - back]) ++back;
  return front + back;
}

// The model that rank shards hold.
Inspection InspectRanks(const std::filesystem::path& path, Findings unfinished) {
  WholeModel model = PutTogether(OpenRankDirectory(path));
  Inspection inspection{.path = path,
                        .catalog = std::move(model.catalog),
                        .config = std::move(model.source.config),
                        .summary = {},
                        .findings = std::move(model.source.warnings)};
  inspection.summary = Summarize(inspection.catalog, &*inspection.config);
  inspection.summary.files = model.layout->files.size();
  inspection.summary.file_bytes = 0;
  for (const formats::LayoutFile& file : model.layout->files) {
    inspection.summary.file_bytes += file.bytes;
  }
  inspection.ranks = std::move(model.layout);
  std::move(unfinished.begin(), unfinished.end(), std::back_inserter(inspection.findings));
  return inspection;
}

}  // namespace

Inspection Inspect(const std::filesystem::path& path) {
  const formats::CheckpointLocation location = formats::LocateCheckpoint(path);
  Findings unfinished;
  if (!location.file_name) unfinished = FindUnfinished(location.directory);
  if (IsRankDirectory(path)) return InspectRanks(path, std::move(unfinished));
  // Of a conversion that is not finished only what is there can be shown.
  const bool half_made = HasUnfinishedConversion(unfinished);
  formats::CheckpointFiles files;
  try {
    files = formats::OpenCheckpointFiles(path);
  } catch (const Error& error) {
    if (half_made && error.code() == ErrorCode::kBadInput) RefuseUnfinishedConversion(path);
    throw;
  }
  RequireReadable(files.findings);
  formats::DropSecondCopies(files);
  Findings findings = std::move(files.findings);
  Findings missing_files;
  if (!location.file_name) missing_files = FindMissingFiles(files);
  std::optional<ModelConfig> config = ReadConfig(files, findings);
  Catalog catalog = Catalog::FromCheckpoint(files);
  const ModelConfig* known = config ? &*config : nullptr;
  Findings missing;
  Summary summary;
  tbb::parallel_invoke(
      [&] {
        if (known != nullptr && !half_made) missing = CheckAgainstModel(*known, catalog);
      },
      [&] { summary = Summarize(catalog, known); });
  findings.insert(findings.end(), std::make_move_iterator(missing.begin()),
                  std::make_move_iterator(missing.end()));
  ScaleCheck(known, findings).Visit(summary.root, "");
  std::move(unfinished.begin(), unfinished.end(), std::back_inserter(findings));
  if (!location.file_name && !half_made) AddUnlessKnown(std::move(missing_files), findings);
  return {path,
          files.form,
          std::move(catalog),
          std::move(config),
          std::move(summary),
          std::move(findings)};
}

std::vector<std::uint32_t> RequireTensors(const Inspection& inspection,
                                          const std::string& name_or_glob) {
  const Catalog& catalog = inspection.catalog;
  // A name may hold brackets of its own.
  if (const std::uint32_t position = catalog.Find(name_or_glob); position != Catalog::kNone) {
    return {position};
  }
  if (HasGlobCharacters(name_or_glob)) {
    std::vector<std::uint32_t> positions;
    for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
      if (MatchesGlob(name_or_glob, catalog.tensors()[i].name)) positions.push_back(i);
    }
    if (!positions.empty()) return positions;
    throw Error(ErrorCode::kUsage,
                fmt::format("no tensor has a name like {}; a glob is held against whole names, "
                            "which --list shows",
                            QuoteForMessage(name_or_glob)),
                {"", name_or_glob});
  }
  std::string message =
      fmt::format("the checkpoint holds no tensor {}", QuoteForMessage(name_or_glob));
  const auto nearest = std::max_element(
      catalog.tensors().begin(), catalog.tensors().end(), [&](const auto& a, const auto& b) {
        return Similarity(a.name, name_or_glob) < Similarity(b.name, name_or_glob);
      });
  if (nearest != catalog.tensors().end()) {
    message += fmt::format("; the most similar name is {}", QuoteForMessage(nearest->name));
  }
  throw Error(ErrorCode::kUsage, message, {"", name_or_glob});
}

void RequireReadableTensors(const Inspection& inspection) {
  if (inspection.ranks) RefuseRankDirectory(inspection.path);
}

}  // namespace dsv3::convert
