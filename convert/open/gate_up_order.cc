#include "convert/open/gate_up_order.h"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <system_error>

#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxYamlBytes = 1 << 20;
constexpr std::string_view kBlanks = " \t\r";

std::string_view Trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

std::optional<bool> BoolOf(std::string_view value) {
  for (const std::string_view yes : {"true", "True", "TRUE"}) {
    if (value == yes) return true;
  }
  for (const std::string_view no : {"false", "False", "FALSE"}) {
    if (value == no) return false;
  }
  return std::nullopt;
}

// What a block of YAML says in a line of its own, "SWITCH: True", at any depth.
std::optional<bool> SwitchOf(std::string_view yaml) {
  std::optional<bool> found;
  while (!yaml.empty()) {
    const std::size_t end = std::min(yaml.find('\n'), yaml.size());
    std::string_view line = yaml.substr(0, end);
    yaml.remove_prefix(std::min(end + 1, yaml.size()));
    line = Trimmed(line.substr(0, line.find('#')));
    if (!line.starts_with(kGateUpSwitch)) continue;
    line = Trimmed(line.substr(std::string_view(kGateUpSwitch).size()));
    if (!line.starts_with(':')) continue;
    if (const auto value = BoolOf(Trimmed(line.substr(1)))) found = value;
  }
  return found;
}

std::vector<fs::path> YamlFiles(const fs::path& directory) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.ends_with(".yaml") || name.ends_with(".yml")) files.push_back(entry->path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string TextOf(const fs::path& path) {
  try {
    return formats::ReadSmallFile(path, kMaxYamlBytes);
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

GateUpOrder FindGateUpOrder(const fs::path& directory, const std::string& config_text) {
  GateUpOrder order;
  bool differ = false;
  const auto take = [&](std::optional<bool> in_turns, const std::string& file) {
    if (!in_turns) return;
    const Stack stack =
        *in_turns ? Stack::kMindformersMcoreV2 : Stack::kMindformersMcoreV2Contiguous;
    differ = differ || (order.stack && *order.stack != stack);
    order.stack = stack;
    order.said.push_back(file);
  };
  const std::string config = formats::kConfigName;
  take(BoolOf(formats::JsonMember(config_text, kGateUpSwitch, config).value_or("")), config);
  for (const fs::path& place : {directory, directory.parent_path()}) {
    for (const fs::path& file : YamlFiles(place)) {
      take(SwitchOf(TextOf(file)), file.lexically_relative(directory).string());
    }
  }
  if (differ) order.stack.reset();
  return order;
}

}  // namespace dsv3::convert
