#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::cli {

// The largest rank number that --ranks takes.
inline constexpr std::uint64_t kMostRanks = 65536;

// Ranks and ranges of ranks, "0-7" or "0,3,8-11": first and last of each, in their order. Throws
// BadValue for anything else.
std::vector<std::pair<std::uint64_t, std::uint64_t>> ParseRankList(const std::string& text);

// Ascending numbers as such a list, runs as ranges: "0-7, 12"; at most `most` entries, then "…".
std::string RankListText(const std::vector<std::uint64_t>& ranks, std::size_t most);

}  // namespace dsv3::cli
