#include "convert/catalog/name_pattern.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"

namespace dsv3::convert {

std::string NamePattern(std::string_view name) {
  std::string pattern;
  while (true) {
    const std::size_t dot = name.find('.');
    const std::string_view part = name.substr(0, dot);
    const bool number = !part.empty() && std::all_of(part.begin(), part.end(),
                                                     [](char c) { return c >= '0' && c <= '9'; });
    pattern += number ? "*" : part;
    if (dot == std::string_view::npos) return pattern;
    pattern += '.';
    name.remove_prefix(dot + 1);
  }
}

PatternCounts CountPatterns(const std::vector<std::string>& names) {
  PatternCounts counts;
  for (const std::string& name : names) ++counts[NamePattern(name)];
  return counts;
}

std::uint64_t TotalOf(const PatternCounts& counts) {
  std::uint64_t total = 0;
  for (const auto& [pattern, count] : counts) total += count;
  return total;
}

std::vector<std::string> PatternLines(const PatternCounts& counts) {
  constexpr std::size_t kShown = 3;
  std::vector<std::pair<std::string, std::uint64_t>> sorted(counts.begin(), counts.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<std::string> lines;
  for (const auto& [pattern, count] : sorted) {
    if (lines.size() == kShown) break;
    lines.push_back(fmt::format("{} × {}", count, QuoteForMessage(pattern)));
  }
  if (sorted.size() > kShown) {
    lines.push_back(fmt::format("and {} more pattern{}", sorted.size() - kShown,
                                sorted.size() == kShown + 1 ? "" : "s"));
  }
  return lines;
}

}  // namespace dsv3::convert
