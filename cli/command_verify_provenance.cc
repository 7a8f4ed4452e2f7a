#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "cli/checks.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/json_members.h"
#include "cli/table.h"
#include "cli/tool_main.h"
#include "cli/units.h"
#include "cli/verify_report.h"
#include "convert/verify/provenance.h"
#include "formats/dtype.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

using convert::ProvenanceReport;
using convert::ProvenanceSource;
using convert::ProvenanceTensor;

struct Options {
  VerifyOptions verify;
  std::string directory;
  std::string source;
};

std::string Digest(const std::string& xxh3) { return xxh3.empty() ? "no digest" : xxh3; }

bool Differs(const ProvenanceTensor& tensor) {
  return std::any_of(tensor.sources.begin(), tensor.sources.end(), [](const auto& source) {
    return source.match == convert::SourceMatch::kDiffers ||
           source.match == convert::SourceMatch::kUnknown;
  });
}

std::vector<const ProvenanceTensor*> Shown(const ProvenanceReport& traced, bool all) {
  std::vector<const ProvenanceTensor*> tensors;
  for (const ProvenanceTensor& tensor : traced.tensors) tensors.push_back(&tensor);
  if (all || tensors.size() <= kFirstRows) return tensors;
  std::stable_partition(tensors.begin(), tensors.end(),
                        [](const ProvenanceTensor* tensor) { return Differs(*tensor); });
  constexpr std::size_t kFirstOfARule = 3;
  std::map<std::string_view, std::size_t> of_rule;
  std::vector<const ProvenanceTensor*> shown;
  for (const ProvenanceTensor* tensor : tensors) {
    if (shown.size() < kFirstRows && ++of_rule[tensor->rule] <= kFirstOfARule) {
      shown.push_back(tensor);
    }
  }
  return shown;
}

// One line for each source, the tensor on the first of them. Without `all` the first few tensors of
// each rule, and those with a source that differs or is unknown before them. A terminal in which
// the digests have no room gets the rest.
std::string TensorTable(const ProvenanceReport& traced, bool all) {
  if (traced.tensors.empty()) return "";
  const bool compared = !traced.source_content_digest.empty() ||
                        traced.matching + traced.differing + traced.unknown > 0;
  Table table("llllll");
  Table narrow("llll");
  table.Add({"tensor", "digest", "rule", "source", "source digest", compared ? "match" : ""});
  narrow.Add({"tensor", "rule", "source", compared ? "match" : ""});
  const std::vector<const ProvenanceTensor*> shown = Shown(traced, all);
  for (const ProvenanceTensor* tensor : shown) {
    const std::string rule = tensor->rule.empty() ? "unknown" : Printable(tensor->rule);
    if (tensor->sources.empty()) {
      table.Add({Printable(tensor->name), Digest(tensor->xxh3), rule});
      narrow.Add({Printable(tensor->name), rule});
      continue;
    }
    bool first = true;
    for (const ProvenanceSource& source : tensor->sources) {
      std::string name = Printable(source.source.name);
      if (!source.source.file.empty()) name += " in " + Printable(source.source.file);
      if (!source.source.checkpoint.empty()) {
        name = Printable(source.source.checkpoint) + ": " + name;
      }
      const std::string made = first ? Printable(tensor->name) : "";
      const std::string made_by = first ? rule : "";
      const std::string match = compared ? std::string(convert::SourceMatchName(source.match)) : "";
      table.Add({made, first ? Digest(tensor->xxh3) : "", made_by, name, Digest(source.source.xxh3),
                 match});
      narrow.Add({made, made_by, name, match});
      first = false;
    }
  }
  // So much of a name says which tensor it is.
  constexpr std::size_t kName = 32;
  const unsigned columns = StdoutColumns();
  const bool fits = table.Fits("", columns, kName);
  return (fits ? table : narrow).Text("", columns) +
         MoreLine(traced.tensors.size() - shown.size()) +
         (fits ? "" : "the digests need a wider terminal, a pipe or --json\n");
}

void TensorMembers(formats::JsonWriter& json, const ProvenanceReport& traced) {
  json.BeginArray("tensors");
  for (const ProvenanceTensor& tensor : traced.tensors) {
    json.BeginObject();
    StringMember(json, "name", tensor.name);
    StringMember(json, "file", tensor.file);
    StringMember(json, "xxh3_128", tensor.xxh3);
    StringOrNullMember(json, "rule", tensor.rule);
    json.BeginArray("sources");
    for (const ProvenanceSource& source : tensor.sources) {
      json.BeginObject();
      StringOrNullMember(json, "checkpoint", source.source.checkpoint);
      StringOrNullMember(json, "file", source.source.file);
      StringMember(json, "name", source.source.name);
      StringMember(json, "dtype", formats::DtypeName(source.source.dtype));
      StringOrNullMember(json, "xxh3_128", source.source.xxh3);
      StringMember(json, "match", convert::SourceMatchName(source.match));
      json.EndObject();
    }
    json.EndArray();
    json.EndObject();
  }
  json.EndArray();
}

void SourceFileMembers(formats::JsonWriter& json, const ProvenanceReport& traced) {
  json.BeginArray("source_files");
  for (const formats::ManifestSourceFile& file : traced.source_files) {
    json.BeginObject();
    StringOrNullMember(json, "checkpoint", file.checkpoint);
    StringMember(json, "name", file.name);
    json.Uint("bytes", file.bytes);
    StringMember(json, "header_xxh3_128", file.header_xxh3);
    json.EndObject();
  }
  json.EndArray();
}

void Members(formats::JsonWriter& json, const std::string& source, const ProvenanceReport& traced) {
  StringOrNullMember(json, "source", source);
  StringOrNullMember(json, "recipe", traced.recipe);
  json.Key("options");
  if (traced.options.empty()) {
    json.Null();
  } else {
    json.Raw(traced.options);
  }
  StringOrNullMember(json, "content_digest", traced.content_digest);
  StringOrNullMember(json, "source_recipe", traced.source_recipe);
  StringOrNullMember(json, "source_content_digest", traced.source_content_digest);
  json.Uint("matching", traced.matching);
  json.Uint("differing", traced.differing);
  json.Uint("unknown", traced.unknown);
  json.Uint("without_digest", traced.without_digest);
  json.BeginObject("rules");
  for (const auto& [rule, tensors] : traced.rules) json.Uint(rule, tensors);
  json.EndObject();
  SourceFileMembers(json, traced);
  TensorMembers(json, traced);
}

std::string RulesText(const ProvenanceReport& traced) {
  std::string text;
  for (const auto& [rule, tensors] : traced.rules) {
    if (!text.empty()) text += ", ";
    text += fmt::format("{} {}", rule.empty() ? "unknown" : Printable(rule), FormatCount(tensors));
  }
  return text;
}

}  // namespace

VerifyReport CheckProvenance(const std::string& directory, const std::string& source,
                             const VerifyOptions& options, CommandContext& /*context*/) {
  convert::ProvenanceRequest request;
  request.directory = directory;
  request.source = source;
  const auto held = std::make_shared<const ProvenanceReport>(convert::TraceProvenance(request));
  const ProvenanceReport& traced = *held;
  VerifyReport report;
  report.input = directory;
  report.verification = traced.verification;
  report.passes = traced.verification.Passes(options.strict);
  report.title = "Provenance of " + formats::ShownPath(directory);
  report.good = source.empty() ? "the manifest says how the tensors were made"
                               : "every recorded digest is that of the source's tensor";
  report.lines.emplace_back("recipe", traced.recipe.empty()
                                          ? "none: no conversion made this directory"
                                          : Printable(traced.recipe));
  if (!traced.options.empty()) report.lines.emplace_back("options", Printable(traced.options));
  report.lines.emplace_back("content", traced.content_digest);
  report.lines.emplace_back("rules", RulesText(traced));
  report.lines.emplace_back("made from", FormatCountOf(traced.source_files.size(), "source file"));
  if (!source.empty()) {
    report.lines.emplace_back("source", formats::ShownPath(source));
    std::string counts =
        fmt::format("{} match, {} differ, {} unknown", FormatCount(traced.matching),
                    FormatCount(traced.differing), FormatCount(traced.unknown));
    if (traced.without_digest != 0) {
      counts += fmt::format(", {} without a digest", FormatCount(traced.without_digest));
    }
    report.lines.emplace_back("sources", counts);
  }
  report.detail = TensorTable(traced, options.all);
  report.members = [held, source](formats::JsonWriter& json) { Members(json, source, *held); };
  return report;
}

Command ProvenanceCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "provenance";
  command.summary = "show which source bytes an output came from";
  command.description = {
      "Shows, from the manifest of DIR alone, by which rule each tensor was made and of which "
      "source tensors, with their digests: the first few of each rule, with --all every one. No "
      "weights are read; 'dsv3-verify checksum check' says whether the files are as the manifest "
      "records them.",
      "With --source, the recorded source tensors are compared with the manifest of that "
      "directory. One that differs makes the exit code 1."};
  command.arguments = {
      {"DIR", "A directory with a checkpoint.manifest.json.", &options->directory}};
  command.options = {
      PathOption(
          "source", "DIR2", PathUse::kCheckpoint, &options->source,
          "The directory that DIR was made from, with a checkpoint.manifest.json of its own."),
      StrictOption(&options->verify)};
  AppendReportOptions(&options->verify, command.options);
  command.examples = {
      {"provenance DeepSeek-V3-BF16 --source DeepSeek-V3", "Trace an output back to its source"}};
  command.returns_data = true;
  command.run = [options](CommandContext& context) {
    return RunCheck(options->directory, options->verify, context, [&] {
      return CheckProvenance(options->directory, options->source, options->verify, context);
    });
  };
  return command;
}

}  // namespace dsv3::cli
