#include "cli/sarif.h"

#include <algorithm>
#include <set>
#include <span>
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
constexpr std::string_view kBase = "CHECKPOINT";

std::vector<std::string> Kinds(const FindingsDocument& document) {
  std::set<std::string> kinds;
  for (const Finding& finding : document.verification->findings) kinds.insert(finding.kind);
  return {kinds.begin(), kinds.end()};
}

void TextMember(JsonWriter& json, std::string_view key, std::string_view text) {
  json.Key(key);
  json.BeginObject();
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
  json.Key("tool");
  json.BeginObject();
  json.Key("driver");
  json.BeginObject();
  StringMember(json, "name", document.tool);
  StringMember(json, "version", kVersion);
  StringMember(json, "semanticVersion", kVersion);
  json.Key("rules");
  json.BeginArray();
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

void Location(JsonWriter& json, const Finding& finding) {
  json.Key("locations");
  json.BeginArray();
  json.BeginObject();
  json.Key("physicalLocation");
  json.BeginObject();
  json.Key("artifactLocation");
  json.BeginObject();
  StringMember(json, "uri", finding.file.empty() ? std::string(".") : UriPath(finding.file));
  StringMember(json, "uriBaseId", kBase);
  json.EndObject();
  // Weights have no lines, but viewers that show findings beside a file want one.
  json.Key("region");
  json.BeginObject();
  UintMember(json, "startLine", 1);
  json.EndObject();
  json.EndObject();
  if (!finding.tensor.empty()) {
    json.Key("logicalLocations");
    json.BeginArray();
    json.BeginObject();
    StringMember(json, "fullyQualifiedName", finding.tensor);
    StringMember(json, "kind", "resource");
    json.EndObject();
    json.EndArray();
  }
  json.EndObject();
  json.EndArray();
}

void Result(JsonWriter& json, const Finding& finding, const std::vector<std::string>& kinds) {
  const auto rule = std::lower_bound(kinds.begin(), kinds.end(), finding.kind);
  json.BeginObject();
  StringMember(json, "ruleId", finding.kind);
  UintMember(json, "ruleIndex", static_cast<std::uint64_t>(rule - kinds.begin()));
  StringMember(json, "level", finding.severity == formats::Severity::kError ? "error" : "warning");
  TextMember(json, "message", finding.message.empty() ? finding.kind : finding.message);
  Location(json, finding);
  // Tells one finding from another where all of them are in line 1.
  const std::string identity = finding.kind + '\0' + finding.file + '\0' + finding.tensor;
  json.Key("partialFingerprints");
  json.BeginObject();
  StringMember(json, "primaryLocationLineHash",
               formats::Xxh3Hex(std::as_bytes(std::span(identity))) + ":1");
  json.EndObject();
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
  JsonWriter json(2);
  json.BeginObject();
  StringMember(json, "$schema", kSchema);
  StringMember(json, "version", "2.1.0");
  json.Key("runs");
  json.BeginArray();
  json.BeginObject();
  Driver(json, document, kinds);
  json.Key("invocations");
  json.BeginArray();
  json.BeginObject();
  StringMember(json, "commandLine", document.tool + " " + document.command);
  BoolMember(json, "executionSuccessful", true);
  UintMember(json, "exitCode", document.passes ? 0 : 1);
  json.EndObject();
  json.EndArray();
  json.Key("originalUriBaseIds");
  json.BeginObject();
  json.Key(kBase);
  json.BeginObject();
  StringMember(json, "uri", "file://" + UriPath(document.directory.string() + "/"));
  json.EndObject();
  json.EndObject();
  json.Key("results");
  json.BeginArray();
  for (const Finding& finding : document.verification->findings) Result(json, finding, kinds);
  json.EndArray();
  json.EndObject();
  json.EndArray();
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::cli
