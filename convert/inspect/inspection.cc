#include "convert/inspect/inspection.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <tbb/parallel_invoke.h>

#include "convert/catalog/glob.h"
#include "convert/model/model_check.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/base_tensors.h"
#include "convert/open/broken_files.h"
#include "convert/open/completeness.h"
#include "convert/open/gguf_model.h"
#include "convert/open/open_model.h"
#include "convert/open/packed_model.h"
#include "convert/open/unlisted_tensors.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

using formats::Findings;
using formats::kConfigName;
using formats::Severity;

// The first finding that leaves the listing incomplete, as the error that it is.
void RequireReadable(const Findings& findings) {
  Findings unreadable;
  std::copy_if(findings.begin(), findings.end(), std::back_inserter(unreadable),
               [](const formats::Finding& finding) { return finding.unreadable; });
  constexpr std::string_view kOthers = "of the files cannot be read either";
  formats::RequireNoErrors(unreadable, {kOthers, kOthers});
}

std::optional<ModelConfig> ConfigOf(const OpenedModel& model, Findings& findings) {
  if (!model.has_config) {
    findings.push_back({Severity::kWarning, "no-config", kConfigName, "",
                        "config.json: there is none, so what the model should hold and which "
                        "parameters a token meets is not known; name the model's with --config "
                        "FILE"});
    return std::nullopt;
  }
  if (model.config_fault) {
    findings.push_back(
        {Severity::kError, "bad-config", kConfigName, "", model.config_fault->message()});
    return std::nullopt;
  }
  return model.config;
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
          fmt::format("tensor '{}' is named like a scale, but there is no weight beside it", name));
      return;
    }
    if (!fp8) return;
    if (node.scales.empty()) {
      Add(Severity::kError, "missing-scale", name,
          fmt::format("tensor '{}' is FP8, but there is no scale beside it; without its scale its "
                      "values mean nothing",
                      name));
      return;
    }
    if (!block_ || node.shape.size() != 2) return;
    const formats::Shape expected = {NumBlocks(node.shape[0], block_->rows),
                                     NumBlocks(node.shape[1], block_->cols)};
    const ScaleTensor& scale = node.scales.front();
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

// As many files and bytes as the rank shards are.
void CountRankFiles(const formats::RankLayout& layout, Summary& summary) {
  summary.files = layout.files.size();
  summary.file_bytes = 0;
  for (const formats::LayoutFile& file : layout.files) summary.file_bytes += file.bytes;
}

// Adds up what the streams of a packed checkpoint take, without the base's tensors.
void CountPackedBytes(const OpenedModel& model, Summary& summary) {
  const std::vector<CatalogTensor>& tensors = model.catalog.tensors();
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    const auto total = std::find_if(summary.dtypes.begin(), summary.dtypes.end(),
                                    [&](const auto& t) { return t.dtype == tensors[i].dtype; });
    const Catalog& stored = model.assembled->stored;
    for (const std::uint32_t stream : model.assembled->origins[i]->streamed_sources()) {
      if (stream >= stored.tensors_end()) continue;
      total->packed_bytes += stored.tensors()[stream].extent.length;
    }
  }
}

}  // namespace

Inspection Inspect(const std::filesystem::path& path, const OpenOptions& options) {
  Inspection inspection;
  inspection.path = path;
  OpenOptions opening = options;
  opening.faults = OpenOptions::Faults::kReport;
  opening.takes_config = true;
  opening.gguf = OpenOptions::Gguf::kOwnNames;
  inspection.model = OpenModel(path, opening);
  RequireUsed(opening, inspection.model);
  RequireBaseRead(options.base, ReadsBase(TensorsOf(inspection.model)));
  OpenedModel& model = inspection.model;
  if (model.gguf) {
    inspection.form = model.form;
    inspection.gguf = SummarizeGguf(*model.gguf);
    return inspection;
  }
  RequireReadable(model.findings);
  inspection.form = model.form;
  Findings& findings = inspection.findings;
  findings = std::move(model.findings);
  AddBrokenSideFiles(model.directory, model.side_files, formats::Severity::kWarning, findings);
  inspection.config = ConfigOf(model, findings);
  const ModelConfig* known = inspection.config ? &*inspection.config : nullptr;
  inspection.forms = FindScaledWeights(model.catalog, model.config).forms;
  if (model.ranks) {
    // Compared with its config when it was opened.
    inspection.ranks = model.ranks->layout;
    inspection.summary = Summarize(model.catalog, known);
    CountRankFiles(model.ranks->layout, inspection.summary);
    std::move(model.unfinished.begin(), model.unfinished.end(), std::back_inserter(findings));
    return inspection;
  }
  Findings missing;
  tbb::parallel_invoke(
      [&] {
        // Of a conversion that is not finished only what is there can be shown.
        if (known != nullptr && !model.half_made)
          missing = CheckAgainstModel(*known, model.catalog);
      },
      [&] { inspection.summary = Summarize(model.catalog, known); });
  if (IsPackedAlone(model.directory)) CountPackedBytes(model, inspection.summary);
  NameUnlistedHolders(model.unlisted, missing);
  findings.insert(findings.end(), std::make_move_iterator(missing.begin()),
                  std::make_move_iterator(missing.end()));
  ScaleCheck(known, findings).Visit(inspection.summary.root, "");
  std::move(model.unfinished.begin(), model.unfinished.end(), std::back_inserter(findings));
  if (!model.half_made) AddUnlessKnown(std::move(model.missing_files), findings);
  return inspection;
}

InspectedTensor InspectedTensorOf(const Inspection& inspection, std::uint32_t position) {
  const OpenedModel& model = inspection.model;
  // Tensors that are listed under a file's names are those that it stores.
  const Catalog& catalog = model.gguf ? model.gguf->stored : model.catalog;
  const CatalogTensor& tensor = catalog.tensors().at(position);
  InspectedTensor shown{tensor.name, std::string(formats::DtypeName(tensor.dtype)), tensor.shape,
                        catalog.files()[tensor.extent.file].name, tensor.extent};
  if (model.gguf) {
    const GgufModel::Held& held = model.gguf->held[position];
    shown.type = formats::GgufTypeInfoOf(held.type).name;
    shown.shape = held.shape;
  }
  return shown;
}

std::vector<std::uint32_t> RequireTensors(const Inspection& inspection,
                                          const std::string& name_or_glob) {
  const Catalog& catalog = inspection.model.catalog;
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

}  // namespace dsv3::convert
