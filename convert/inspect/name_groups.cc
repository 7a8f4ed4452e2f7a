#include "convert/inspect/name_groups.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "convert/model/quantized_form.h"
#include "convert/model/scale_names.h"

namespace dsv3::convert {
namespace {

// Bounds the depth of whatever walks the components.
constexpr std::size_t kMaxComponents = 32;

std::optional<std::uint32_t> ParseNumber(std::string_view text) {
  constexpr std::size_t kMaxDigits = 9;
  if (text.empty() || text.size() > kMaxDigits) return std::nullopt;
  if (text[0] == '0' && text.size() > 1) return std::nullopt;
  std::uint32_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<std::uint32_t>(c - '0');
  }
  return value;
}

// A name taken apart: the pattern as one string, and the numbers.
struct ParsedName {
  std::string pattern;
  std::array<std::uint32_t, kMaxComponents> numbers;
  std::size_t num_numbers = 0;

  void Parse(std::string_view name) {
    pattern.clear();
    num_numbers = 0;
    std::size_t begin = 0;
    for (std::size_t component = 1;; ++component) {
      const std::size_t dot =
          component < kMaxComponents ? name.find('.', begin) : std::string_view::npos;
      const std::string_view part = name.substr(begin, dot - begin);
      const char first = part.empty() ? '\0' : part[0];
      const auto number = first >= '0' && first <= '9' ? ParseNumber(part) : std::nullopt;
      if (number) {
        numbers[num_numbers++] = *number;
        pattern += NameGroup::kNumber;
      } else {
        // Keeps a component that looks like the mark apart from it.
        if (first == NameGroup::kNumber[0]) pattern += first;
        pattern += part;
      }
      if (dot == std::string_view::npos) return;
      pattern += '.';
      begin = dot + 1;
    }
  }
};

std::vector<std::string> SplitPattern(std::string_view pattern) {
  std::vector<std::string> components;
  while (true) {
    const std::size_t dot =
        components.size() + 1 < kMaxComponents ? pattern.find('.') : std::string_view::npos;
    const std::string_view part = pattern.substr(0, dot);
    components.emplace_back(part);
    if (dot == std::string_view::npos) return components;
    pattern.remove_prefix(dot + 1);
  }
}

void AppendRaw(std::string& key, std::uint64_t value) {
  key.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Whether a pattern is that of a scale, judged by the pattern that its weight would have.
bool IsScalePattern(std::string_view pattern, const std::unordered_set<std::string>& patterns) {
  const std::vector<std::string> codes = CodeNamesOf(pattern);
  return std::any_of(codes.begin(), codes.end(),
                     [&](const std::string& name) { return patterns.contains(name); });
}

// The patterns of what lies beside codes of this pattern.
void AddBeside(std::string_view codes, std::unordered_set<std::string>& beside) {
  const std::size_t dot = codes.rfind('.');
  if (dot == std::string_view::npos) return;
  for (std::string& name : NamesBesideWeight(fmt::format("{}.weight", codes.substr(0, dot)))) {
    if (name != codes) beside.insert(std::move(name));
  }
}

// `positions` has one tensor of each group.
void CountParameters(const Catalog& catalog, const ModelConfig& config,
                     const std::vector<std::string>& patterns,
                     const std::vector<std::uint32_t>& positions, std::vector<NameGroup>& groups) {
  std::unordered_set<std::string> beside;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    groups[i].parameters = groups[i].elements;
    const auto form = RecogniseForm(catalog, config, positions[i]);
    if (!form) continue;
    groups[i].parameters = ValuesIn(*form, groups[i].elements);
    AddBeside(patterns[i], beside);
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (groups[i].scale || beside.contains(patterns[i])) groups[i].parameters = 0;
  }
}

}  // namespace

std::size_t NameGroup::NumberAfter(std::string_view name) const {
  std::size_t number = 0;
  for (std::size_t i = 0; i + 1 < components.size(); ++i) {
    if (components[i] == kNumber) ++number;
    if (components[i] == name && components[i + 1] == kNumber) return number;
  }
  return num_numbers;
}

std::vector<NameGroup> GroupNames(const Catalog& catalog, const ModelConfig* config) {
  std::vector<NameGroup> groups;
  std::vector<std::uint32_t> positions;
  std::vector<std::string> patterns;
  std::unordered_map<std::string, std::size_t> by_key;
  ParsedName name;
  std::string key;
  for (std::uint32_t position = 0; position < catalog.tensors().size(); ++position) {
    const CatalogTensor& tensor = catalog.tensors()[position];
    name.Parse(tensor.name);
    key = name.pattern;
    key += '\0';
    key += static_cast<char>(tensor.dtype);
    for (const std::uint64_t dim : tensor.shape) AppendRaw(key, dim);
    const auto [entry, is_new] = by_key.try_emplace(key, groups.size());
    if (is_new) {
      NameGroup group;
      group.components = SplitPattern(name.pattern);
      group.num_numbers = name.num_numbers;
      group.dtype = tensor.dtype;
      group.shape = tensor.shape;
      group.elements = formats::NumElements(tensor.shape).value_or(0);
      group.bytes = tensor.extent.length;
      groups.push_back(std::move(group));
      positions.push_back(position);
      patterns.push_back(name.pattern);
    }
    NameGroup& group = groups[entry->second];
    ++group.tensors;
    group.numbers.insert(group.numbers.end(), name.numbers.begin(),
                         name.numbers.begin() + static_cast<std::ptrdiff_t>(name.num_numbers));
  }
  const std::unordered_set<std::string> known(patterns.begin(), patterns.end());
  for (std::size_t i = 0; i < groups.size(); ++i) {
    groups[i].scale = IsScalePattern(patterns[i], known);
  }
  CountParameters(catalog, config == nullptr ? ModelConfig() : *config, patterns, positions,
                  groups);
  return groups;
}

}  // namespace dsv3::convert
