#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace dsv3::formats {

// Offset of the first byte that does not belong to well-formed UTF-8 (no overlong forms, no
// surrogates, nothing beyond U+10FFFF, nothing cut off); text.size() when all of it is well formed.
std::size_t FindInvalidUtf8(std::string_view text);

// Appends the UTF-8 form of a code point, which must not be a surrogate or beyond U+10FFFF.
void AppendUtf8(std::string& out, char32_t code_point);

}  // namespace dsv3::formats
