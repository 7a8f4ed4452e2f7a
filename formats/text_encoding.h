#pragma once

#include <string>
#include <string_view>

namespace dsv3::formats {

// Converts a text that an editor or a shell saved to UTF-8: removes a byte order mark, and decodes
// UTF-16 and UTF-32 (with a mark, or recognised by ASCII characters, of which the other bytes are
// 0). Code units that are not characters become U+FFFD. Any other text is returned unchanged.
std::string ToUtf8(std::string_view text);

// A text of ISO 8859-1, of which every byte is a character, as UTF-8.
std::string Latin1ToUtf8(std::string_view text);

// The text with the ASCII letters in lowercase, in any locale.
std::string AsciiLower(std::string_view text);

}  // namespace dsv3::formats
