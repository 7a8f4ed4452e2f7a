#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

// Names of many tensors in few words.
namespace dsv3::convert {

// The name without layer and expert numbers: "model.layers.*.mlp.experts.*.up_proj.weight".
std::string NamePattern(std::string_view name);

// How many names have each pattern.
using PatternCounts = std::map<std::string, std::uint64_t>;

PatternCounts CountPatterns(const std::vector<std::string>& names);
std::uint64_t TotalOf(const PatternCounts& counts);

// Lines for people, the most frequent patterns first: "16 × PATTERN" for each of the first three,
// and how many more patterns there are.
std::vector<std::string> PatternLines(const PatternCounts& counts);

}  // namespace dsv3::convert
