#pragma once

#include <string>
#include <string_view>

namespace dsv3::formats {

// A text as editors and shells save it, in UTF-8: without a byte order mark, and decoded where it
// is UTF-16 (with a mark, or without one and plainly so: every other byte of an ASCII text is 0).
// Code units that are no character become U+FFFD. Any other text comes back as it is.
std::string ToUtf8(std::string_view text);

}  // namespace dsv3::formats
