#include "tests/cli/json_schema.h"

#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <string>

namespace dsv3::testing {

namespace {

using nlohmann::json;

bool HasType(const json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  return type == "null" && value.is_null();
}

// To make the expression takes longer than to use it.
bool MatchesPattern(const std::string& text, const std::string& pattern) {
  static std::map<std::string, std::regex> expressions;
  const auto found = expressions.find(pattern);
  return std::regex_search(text, found == expressions.end()
                                     ? expressions.emplace(pattern, pattern).first->second
                                     : found->second);
}

bool HasOneType(const json& value, const json& types) {
  if (types.is_string()) return HasType(value, types);
  return std::any_of(types.begin(), types.end(),
                     [&](const json& type) { return HasType(value, type); });
}

}  // namespace

std::string SchemaComplaints(const json& schema, const json& value, const std::string& place) {
  static const std::set<std::string> kAnnotations = {"$schema", "title", "description"};
  std::string complaints;
  const auto complain = [&](const std::string& what) { complaints += place + ": " + what + "\n"; };
  for (const auto& [keyword, rule] : schema.items()) {
    if (kAnnotations.contains(keyword)) continue;
    if (keyword == "type") {
      if (!HasOneType(value, rule)) complain("is no " + rule.dump());
    } else if (keyword == "enum") {
      if (std::find(rule.begin(), rule.end(), value) == rule.end()) complain("not in the enum");
    } else if (keyword == "minimum") {
      if (value.is_number() && value.get<double>() < rule.get<double>()) complain("too small");
    } else if (keyword == "pattern") {
      if (value.is_string() && !MatchesPattern(value, rule)) complain("does not match the pattern");
    } else if (keyword == "required") {
      for (const json& name : rule) {
        if (value.is_object() && !value.contains(name)) complain("lacks " + name.dump());
      }
    } else if (keyword == "properties") {
      for (const auto& [name, member] : rule.items()) {
        if (!value.is_object() || !value.contains(name)) continue;
        complaints += SchemaComplaints(member, value[name], place + "." + name);
      }
    } else if (keyword == "additionalProperties") {
      for (auto it = value.begin(); value.is_object() && it != value.end(); ++it) {
        if (!schema["properties"].contains(it.key())) complain("does not know " + it.key());
      }
    } else if (keyword == "items") {
      for (std::size_t i = 0; value.is_array() && i < value.size(); ++i) {
        complaints += SchemaComplaints(rule, value[i], place + "[" + std::to_string(i) + "]");
      }
    } else {
      complain("the schema's keyword " + keyword + " is not understood here");
    }
  }
  return complaints;
}

}  // namespace dsv3::testing
