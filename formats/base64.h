#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace dsv3::formats {

// Base64 with the standard alphabet and padding (RFC 4648, section 4), without line ends.
std::string EncodeBase64(std::string_view bytes);

// The bytes; nothing for a text that EncodeBase64 would not give: with other characters, white
// space, missing padding, or last characters with bits that no byte has.
std::optional<std::string> DecodeBase64(std::string_view text);

}  // namespace dsv3::formats
