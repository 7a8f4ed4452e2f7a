#include "cli/rank_list.h"

#include <cstddef>

#include "cli/option_table.h"

namespace dsv3::cli {

std::vector<std::pair<std::uint64_t, std::uint64_t>> ParseRankList(const std::string& text) {
  const std::string accepted = "give ranks and ranges of ranks, such as 0-7 or 0,3,8-11";
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string entry = text.substr(begin, end - begin);
    const std::size_t dash = entry.find('-');
    const std::uint64_t first = ParseNumber(entry.substr(0, dash), kMostRanks - 1, accepted);
    const std::uint64_t last = dash == std::string::npos
                                   ? first
                                   : ParseNumber(entry.substr(dash + 1), kMostRanks - 1, accepted);
    if (last < first) throw BadValue(accepted);
    ranges.emplace_back(first, last);
    begin = end + 1;
  }
  return ranges;
}

std::string RankListText(const std::vector<std::uint64_t>& ranks, std::size_t most) {
  std::string text;
  std::size_t entries = 0;
  for (std::size_t i = 0; i < ranks.size(); ++entries) {
    if (entries > 0) text += ", ";
    if (entries == most) return text + "…";
    std::size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    text += std::to_string(ranks[i]);
    if (end > i + 1) text += "-" + std::to_string(ranks[end - 1]);
    i = end;
  }
  return text;
}

}  // namespace dsv3::cli
