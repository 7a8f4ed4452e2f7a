#include "cli/sarif.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <set>
#include <unordered_set>
#include <vector>

#include <fmt/format.h>

#include "cli/json_members.h"
#include "cli/version.h"
#include "formats/hash/xxh3.h"

namespace dsv3::cli {

namespace {

using formats::Finding;
using formats::JsonWriter;

constexpr std::string_view kSchema =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";
constexpr std::string_view kRoot = "SRCROOT";

// The findings of each check that are results: all, or as many as code scanning takes of a run,
// errors before warnings.
class ChosenFindings {
 public:
  explicit ChosenFindings(const FindingsDocument& document) {
    std::size_t free = kMostSarifResults;
    for (const formats::Severity severity :
         {formats::Severity::kError, formats::Severity::kWarning}) {
      for (const CheckRecord& check : document.checks) {
        for (const Finding& finding : check.verification.findings) {
          if (finding.severity != severity) continue;
          if (free == 0) return;
          --free;
          chosen_.insert(&finding);
        }
      }
    }
  }

  bool Has(const Finding& finding) const { return chosen_.count(&finding) != 0; }

  std::size_t LeftOutOf(const CheckRecord& check) const {
    const auto& findings = check.verification.findings;
    return static_cast<std::size_t>(std::count_if(
        findings.begin(), findings.end(), [&](const Finding& finding) { return !Has(finding); }));
  }

 private:
  std::unordered_set<const Finding*> chosen_;
};

std::vector<std::string> Kinds(const FindingsDocument& document) {
  std::set<std::string> kinds;
  for (const CheckRecord& check : document.checks) {
    for (const Finding& finding : check.verification.findings) kinds.insert(finding.kind);
  }
  return {kinds.begin(), kinds.end()};
}

void TextMember(JsonWriter& json, std::string_view key, std::string_view text) {
  json.BeginObject(key);
  StringMember(json, "text", text);
  json.EndObject();
}

// "missing-tensor" → "Missing tensor": what a list of rules shows.
std::string RuleTitle(std::string kind) {
  std::replace(kind.begin(), kind.end(), '-', ' ');
  if (!kind.empty() && kind[0] >= 'a' && kind[0] <= 'z') {
    kind[0] = static_cast<char>(kind[0] - 'a' + 'A');
  }
  return kind;
}

void Driver(JsonWriter& json, const FindingsDocument& document,
            const std::vector<std::string>& kinds) {
  json.BeginObject("tool");
  json.BeginObject("driver");
  StringMember(json, "name", document.tool);
  StringMember(json, "version", kVersion);
  StringMember(json, "semanticVersion", kVersion);
  json.BeginArray("rules");
  for (const std::string& kind : kinds) {
    json.BeginObject();
    StringMember(json, "id", kind);
    TextMember(json, "shortDescription", RuleTitle(kind));
    json.EndObject();
  }
  json.EndArray();
  json.EndObject();
  json.EndObject();
}

// A file of the checkpoint as the root names it, `from` being the checkpoint's own place.
std::string UriOf(const std::filesystem::path& from, const std::string& file) {
  const std::string path = (from / file).lexically_normal().string();
  // Without a file the place ends with a slash, or is the root itself.
  const std::string plain =
      path.size() > 1 && path.back() == '/' ? path.substr(0, path.size() - 1) : path;
  return plain.empty() ? "." : UriPath(plain);
}

void Location(JsonWriter& json, const Finding& finding, const std::filesystem::path& from) {
  json.BeginArray("locations");
  json.BeginObject();
  json.BeginObject("physicalLocation");
  json.BeginObject("artifactLocation");
  StringMember(json, "uri", UriOf(from, finding.file));
  StringMember(json, "uriBaseId", kRoot);
  json.EndObject();
  // Weights have no lines, but viewers that show findings beside a file want one.
  json.BeginObject("region");
  json.Uint("startLine", 1);
  json.EndObject();
  json.EndObject();
  if (!finding.tensor.empty()) {
    json.BeginArray("logicalLocations");
    json.BeginObject();
    StringMember(json, "fullyQualifiedName", finding.tensor);
    StringMember(json, "kind", "resource");
    json.EndObject();
    json.EndArray();
  }
  json.EndObject();
  json.EndArray();
}

void Result(JsonWriter& json, const Finding& finding, const std::vector<std::string>& kinds,
            const std::filesystem::path& from) {
  const auto rule = std::lower_bound(kinds.begin(), kinds.end(), finding.kind);
  json.BeginObject();
  StringMember(json, "ruleId", finding.kind);
  json.Uint("ruleIndex", static_cast<std::uint64_t>(rule - kinds.begin()));
  StringMember(json, "level", finding.severity == formats::Severity::kError ? "error" : "warning");
  TextMember(json, "message", finding.message.empty() ? finding.kind : finding.message);
  Location(json, finding, from);
  // Distinguishes findings, which are all in line 1.
  const std::string identity = finding.kind + '\0' + finding.file + '\0' + finding.tensor;
  json.BeginObject("partialFingerprints");
  StringMember(json, "primaryLocationLineHash", formats::Xxh3Hex(identity) + ":1");
  json.EndObject();
  json.EndObject();
}

void UriMember(JsonWriter& json, std::string_view key, const std::filesystem::path& directory) {
  json.BeginObject(key);
  const std::string path = directory.string();
  StringMember(json, "uri", "file://" + UriPath(path.ends_with('/') ? path : path + "/"));
  json.EndObject();
}

void Notification(JsonWriter& json, std::string_view level, std::string_view text) {
  json.BeginObject();
  StringMember(json, "level", level);
  TextMember(json, "message", text);
  json.EndObject();
}

void Invocation(JsonWriter& json, const std::string& tool, const CheckRecord& check,
                std::size_t left_out, const std::filesystem::path& root) {
  json.BeginObject();
  StringMember(json, "commandLine", tool + " " + check.command);
  StringMember(json, "startTimeUtc", UtcText(check.begin) + "Z");
  const auto length = std::chrono::duration_cast<std::chrono::system_clock::duration>(
      std::chrono::duration<double>(check.seconds));
  StringMember(json, "endTimeUtc", UtcText(check.begin + length) + "Z");
  json.Bool("executionSuccessful", !check.error);
  json.Uint("exitCode", check.error    ? static_cast<std::uint64_t>(check.error->code())
                        : check.passes ? 0
                                       : 1);
  UriMember(json, "workingDirectory", root);
  if (check.error || left_out > 0) json.BeginArray("toolExecutionNotifications");
  if (check.error) Notification(json, "error", check.error->message());
  if (left_out > 0) {
    Notification(
        json, "warning",
        fmt::format("{} more {} not among the results, of which code scanning takes {}; "
                    "--json and --junit have all",
                    left_out, left_out == 1 ? "finding is" : "findings are", kMostSarifResults));
  }
  if (check.error || left_out > 0) json.EndArray();
  json.EndObject();
}

}  // namespace

std::string UriPath(std::string_view path) {
  constexpr std::string_view kUnreserved =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";
  std::string uri;
  for (const char c : path) {
    if (kUnreserved.find(c) != std::string_view::npos) {
      uri += c;
    } else {
      uri += fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    }
  }
  return uri;
}

std::string SarifText(const FindingsDocument& document) {
  const std::vector<std::string> kinds = Kinds(document);
  const ChosenFindings chosen(document);
  JsonWriter json(2);
  json.BeginObject();
  StringMember(json, "$schema", kSchema);
  StringMember(json, "version", "2.1.0");
  json.BeginArray("runs");
  json.BeginObject();
  Driver(json, document, kinds);
  const std::filesystem::path root = SourceRoot(document.directory);
  const std::filesystem::path from = document.directory.lexically_relative(root);
  json.BeginArray("invocations");
  for (const CheckRecord& check : document.checks) {
    if (!check.skipped.empty()) continue;
    Invocation(json, document.tool, check, chosen.LeftOutOf(check), root);
  }
  json.EndArray();
  json.BeginObject("originalUriBaseIds");
  UriMember(json, kRoot, root);
  UriMember(json, "CHECKPOINT", document.directory);
  json.EndObject();
  json.BeginArray("results");
  for (const CheckRecord& check : document.checks) {
    for (const Finding& finding : check.verification.findings) {
      if (chosen.Has(finding)) Result(json, finding, kinds, from);
    }
  }
  json.EndArray();
  json.EndObject();
  json.EndArray();
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::cli
