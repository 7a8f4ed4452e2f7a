#pragma once

#include <string>
#include <string_view>

namespace dsv3::convert {

// Throws Error (kBadInput) where the text of a config is not a JSON object, which may hold NaN and
// Infinity as Python writes them; says nothing of what is in it. `file` is what errors call it.
void RequireConfigObject(std::string_view text, const std::string& file);

}  // namespace dsv3::convert
