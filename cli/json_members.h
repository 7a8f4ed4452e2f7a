#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/units.h"
#include "formats/finding.h"
#include "formats/json/json_writer.h"
#include "formats/shape.h"

// Members of a report. Texts may hold any bytes: bytes that are not UTF-8 are replaced.
namespace dsv3::cli {

inline void StringMember(formats::JsonWriter& json, std::string_view key, std::string_view text) {
  json.Key(key);
  json.String(Utf8Of(text));
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

inline void UintMember(formats::JsonWriter& json, std::string_view key, std::uint64_t value) {
  json.Key(key);
  json.Uint(value);
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

inline void DoubleMember(formats::JsonWriter& json, std::string_view key, double value) {
  json.Key(key);
  json.Double(value);
}

inline void BoolMember(formats::JsonWriter& json, std::string_view key, bool value) {
  json.Key(key);
  json.Bool(value);
}

inline void ShapeMember(formats::JsonWriter& json, std::string_view key,
                        const formats::Shape& shape) {
  json.Key(key);
  json.BeginArray();
  for (const std::uint64_t extent : shape) json.Uint(extent);
  json.EndArray();
}

inline void StringsMember(formats::JsonWriter& json, std::string_view key,
                          const std::vector<std::string>& texts) {
  json.Key(key);
  json.BeginArray();
  for (const std::string& text : texts) json.String(Utf8Of(text));
  json.EndArray();
}

inline void FindingsMember(formats::JsonWriter& json, std::string_view key,
                           const formats::Findings& findings) {
  json.Key(key);
  json.BeginArray();
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
