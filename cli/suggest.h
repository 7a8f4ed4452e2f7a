#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dsv3::cli {

// The candidate that `word` was most likely meant to be: few letters left out, added, changed or
// swapped, or the only one that begins with it. Empty when nothing is near.
std::string Nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace dsv3::cli
