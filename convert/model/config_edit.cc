#include "convert/model/config_edit.h"

#include <algorithm>
#include <cstddef>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"

namespace dsv3::convert {
namespace {

using formats::kConfigName;

// Python's json.dumps(indent=2), as a member of an object whose members are indented by `indent`.
void WriteIndented(const nlohmann::ordered_json& value, std::size_t indent, std::string& out) {
  const std::string lines = value.dump(2);
  for (const char c : lines) {
    out += c;
    if (c == '\n') out.append(indent, ' ');
  }
}

std::string ParentOf(const std::string& member) {
  const std::size_t slash = member.rfind('/');
  return slash == std::string::npos ? "" : member.substr(0, slash);
}

}  // namespace

std::string SetConfigMember(const std::string& config_text, const std::string& member,
                            const std::string& json) {
  const std::string parent = ParentOf(member);
  const bool has_lines = config_text.find('\n') != std::string::npos;
  const auto depth = static_cast<std::size_t>(std::count(member.begin(), member.end(), '/'));
  std::string value = json;
  if (has_lines && value.find('\n') == std::string::npos) {
    value.clear();
    WriteIndented(nlohmann::ordered_json::parse(json), 2 * (depth + 1), value);
  }
  if (formats::JsonMember(config_text, member, kConfigName)) {
    return formats::ReplaceJsonMember(config_text, member, value, kConfigName);
  }
  if (parent.empty()) return formats::AppendJsonMember(config_text, member, value, kConfigName);
  const std::optional<std::string> object = formats::JsonMember(config_text, parent, kConfigName);
  if (!object || !object->starts_with('{')) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: there is no object {} to hold {}; the config belongs to another "
                            "model than the manifest beside it",
                            kConfigName, QuoteForMessage(parent), QuoteForMessage(member)),
                {kConfigName, ""});
  }
  return formats::ReplaceJsonMember(
      config_text, parent,
      formats::AppendJsonMember(*object, member.substr(parent.size() + 1), value, kConfigName),
      kConfigName);
}

}  // namespace dsv3::convert
