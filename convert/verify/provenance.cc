#include "convert/verify/provenance.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "convert/open/completeness.h"
#include "convert/open/unfinished.h"
#include "convert/verify/checksum_basis.h"
#include "convert/verify/directory_files.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/json/json_writer.h"
#include "formats/message_text.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

// Rank files hold several tensors of one name.
using TensorsByName = std::map<std::string_view, std::vector<const formats::ManifestTensor*>>;

formats::Manifest ReadFrom(const fs::path& directory) {
  const fs::path path = LocateDirectory(directory) / formats::kManifestName;
  if (!formats::EntryExists(path)) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: there is no {}; conversions write one, and `dsv3-verify checksum "
                            "create` makes one",
                            formats::ShownPath(directory), formats::kManifestName),
                {directory.string(), ""});
  }
  return ReadManifestFile(path);
}

// The tensors that a source may be: those of its name, in its file where that is recorded.
std::vector<const formats::ManifestTensor*> CandidatesFor(const formats::ManifestSource& source,
                                                          const TensorsByName& tensors) {
  const auto found = tensors.find(source.name);
  if (found == tensors.end()) return {};
  std::vector<const formats::ManifestTensor*> candidates;
  for (const formats::ManifestTensor* const tensor : found->second) {
    if (source.file.empty() || tensor->file == source.file) candidates.push_back(tensor);
  }
  return candidates;
}

SourceMatch Compare(const formats::ManifestSource& source, const TensorsByName& tensors) {
  if (source.xxh3.empty()) return SourceMatch::kNotCompared;
  const auto candidates = CandidatesFor(source, tensors);
  if (candidates.empty()) return SourceMatch::kUnknown;
  const bool matches = std::any_of(
      candidates.begin(), candidates.end(),
      [&](const formats::ManifestTensor* tensor) { return tensor->xxh3 == source.xxh3; });
  return matches ? SourceMatch::kMatches : SourceMatch::kDiffers;
}

// A conversion may have had two sources with tensors of the same names. The given one is that of
// which most recorded tensors match, the converted one in doubt.
std::string LabelOf(const formats::Manifest& manifest, const TensorsByName& tensors) {
  std::map<std::string, std::uint64_t> matches;
  for (const formats::ManifestTensor& tensor : manifest.tensors) {
    for (const formats::ManifestSource& source : tensor.sources) {
      if (Compare(source, tensors) == SourceMatch::kMatches) ++matches[source.checkpoint];
    }
  }
  std::string label;
  std::uint64_t most = 0;
  for (const auto& [checkpoint, count] : matches) {
    if (count > most) {
      label = checkpoint;
      most = count;
    }
  }
  return label;
}

formats::Finding MatchFinding(const ProvenanceTensor& tensor, const ProvenanceSource& source,
                              const TensorsByName& tensors) {
  formats::Finding finding;
  finding.file = tensor.file;
  finding.tensor = tensor.name;
  const std::string what =
      fmt::format("{}: tensor {} was made by {} of {} with XXH3-128 {}", tensor.file,
                  QuoteForMessage(tensor.name), QuoteForMessage(tensor.rule),
                  QuoteForMessage(source.source.name), source.source.xxh3);
  if (source.match == SourceMatch::kDiffers) {
    finding.kind = "source-differs";
    const auto found = CandidatesFor(source.source, tensors);
    finding.message = fmt::format(
        "{}, and the source has {}{}; the tensor was made of another one, convert it again", what,
        found.front()->xxh3,
        found.size() == 1 ? std::string()
                          : fmt::format(" and {} more of that name", found.size() - 1));
  } else {
    finding.severity = formats::Severity::kWarning;
    finding.kind = "source-unknown";
    finding.message = fmt::format(
        "{}, which the source's manifest does not list; give the checkpoint that it is from", what);
  }
  return finding;
}

class Tracer {
 public:
  explicit Tracer(formats::Manifest manifest) : manifest_(std::move(manifest)) {}

  ProvenanceReport Trace(const formats::Manifest* source) {
    report_.verification.check = "provenance";
    report_.verification.files.emplace_back(formats::kManifestName);
    DescribeJob();
    TensorsByName tensors;
    std::string label;
    if (source != nullptr) {
      for (const formats::ManifestTensor& tensor : source->tensors) {
        tensors[tensor.name].push_back(&tensor);
      }
      label = LabelOf(manifest_, tensors);
      report_.source_recipe = RecipeOf(*source);
      report_.source_content_digest = source->content_digest;
    }
    std::map<std::string, std::uint64_t> rules;
    for (formats::ManifestTensor& tensor : manifest_.tensors) {
      ++rules[tensor.rule];
      Add(tensor, source == nullptr ? nullptr : &tensors, label);
    }
    report_.rules.assign(rules.begin(), rules.end());
    return std::move(report_);
  }

 private:
  static std::string RecipeOf(const formats::Manifest& manifest) {
    return manifest.job.recipe == formats::kNoRecipe ? std::string() : manifest.job.recipe;
  }

  void DescribeJob() {
    report_.recipe = RecipeOf(manifest_);
    report_.options = "{";
    for (const auto& [name, json] : manifest_.job.options) {
      if (report_.options.size() > 1) report_.options += ",";
      formats::AppendJsonString(report_.options, name);
      report_.options += ":" + json;
    }
    report_.options += "}";
    report_.content_digest = manifest_.content_digest;
    report_.source_files = manifest_.job.source_files;
    if (!report_.recipe.empty()) return;
    formats::Finding finding;
    finding.severity = formats::Severity::kWarning;
    finding.kind = "no-provenance";
    finding.file = formats::kManifestName;
    finding.message =
        fmt::format("{}: no conversion wrote it, so it does not say what the tensors were made of",
                    formats::kManifestName);
    report_.verification.findings.push_back(std::move(finding));
  }

  // `tensors` are those of the given source, or null.
  void Add(formats::ManifestTensor& tensor, const TensorsByName* tensors,
           const std::string& label) {
    ProvenanceTensor traced{tensor.name, tensor.file, tensor.xxh3, tensor.rule, {}};
    for (formats::ManifestSource& source : tensor.sources) {
      ProvenanceSource one{std::move(source), SourceMatch::kNotCompared};
      if (tensors != nullptr && one.source.checkpoint == label) {
        one.match = Compare(one.source, *tensors);
      }
      if (one.source.xxh3.empty()) ++report_.without_digest;
      Count(one.match);
      if (one.match == SourceMatch::kDiffers || one.match == SourceMatch::kUnknown) {
        report_.verification.findings.push_back(MatchFinding(traced, one, *tensors));
      }
      traced.sources.push_back(std::move(one));
    }
    report_.tensors.push_back(std::move(traced));
  }

  void Count(SourceMatch match) {
    if (match == SourceMatch::kMatches) ++report_.matching;
    if (match == SourceMatch::kDiffers) ++report_.differing;
    if (match == SourceMatch::kUnknown) ++report_.unknown;
  }

  formats::Manifest manifest_;
  ProvenanceReport report_;
};

}  // namespace

std::string_view SourceMatchName(SourceMatch match) {
  switch (match) {
    case SourceMatch::kNotCompared:
      return "not-compared";
    case SourceMatch::kMatches:
      return "matches";
    case SourceMatch::kDiffers:
      return "differs";
    case SourceMatch::kUnknown:
      return "unknown";
  }
  return "";
}

ProvenanceReport TraceProvenance(const ProvenanceRequest& request) {
  const fs::path located = LocateDirectory(request.directory);
  // A manifest may lie alone, to be read without the weights that it is about.
  const bool has_weights = !formats::ListSafetensors(located).empty();
  formats::Findings completeness =
      has_weights ? JudgeCompleteness(located) : FindUnfinished(located);
  if (HasUnfinishedConversion(completeness)) {
    formats::RequireNoErrors(completeness, {"fault like it", "faults like it"});
  }
  formats::Manifest manifest = ReadFrom(request.directory);
  std::optional<formats::Manifest> source;
  if (!request.source.empty()) source = ReadFrom(request.source);
  ProvenanceReport report = Tracer(std::move(manifest)).Trace(source ? &*source : nullptr);
  AddUnlessKnown(std::move(completeness), report.verification.findings);
  return report;
}

}  // namespace dsv3::convert
