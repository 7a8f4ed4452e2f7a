#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/units.h"
#include "formats/finding.h"
#include "formats/json/json_writer.h"

// Members of a report. Texts may hold any bytes: bytes that are not UTF-8 are replaced.
namespace dsv3::cli {

inline void StringMember(formats::JsonWriter& json, std::string_view key, std::string_view text) {
  json.String(key, Utf8Of(text));
}

// Null for an empty text.
inline void StringOrNullMember(formats::JsonWriter& json, std::string_view key,
                               std::string_view text) {
  json.Key(key);
  if (text.empty()) {
    json.Null();
  } else {
    json.String(Utf8Of(text));
  }
}

// Null for nothing.
inline void UintOrNullMember(formats::JsonWriter& json, std::string_view key,
                             std::optional<std::uint64_t> value) {
  json.Key(key);
  if (value) {
    json.Uint(*value);
  } else {
    json.Null();
  }
}

inline void StringsMember(formats::JsonWriter& json, std::string_view key,
                          const std::vector<std::string>& texts) {
  json.BeginArray(key);
  for (const std::string& text : texts) json.String(Utf8Of(text));
  json.EndArray();
}

inline void FindingsMember(formats::JsonWriter& json, std::string_view key,
                           const formats::Findings& findings) {
  json.BeginArray(key);
  for (const formats::Finding& finding : findings) {
    json.BeginObject();
    StringMember(json, "severity",
                 finding.severity == formats::Severity::kError ? "error" : "warning");
    StringMember(json, "kind", finding.kind);
    StringOrNullMember(json, "file", finding.file);
    StringOrNullMember(json, "tensor", finding.tensor);
    StringMember(json, "message", finding.message);
    json.EndObject();
  }
  json.EndArray();
}

}  // namespace dsv3::cli
