#include "formats/text_encoding.h"

#include <cstddef>

#include "formats/json/utf8.h"

namespace dsv3::formats {
namespace {

enum class Encoding { kBytes, kUtf16Le, kUtf16Be };

// Whether the first characters of `text` are ASCII in UTF-16 whose zero bytes are at `zero` of each
// two.
bool LooksLikeUtf16(std::string_view text, std::size_t zero) {
  constexpr std::size_t kLooked = 64;
  if (text.size() < 2) return false;
  for (std::size_t i = 0; i + 1 < text.size() && i < kLooked; i += 2) {
    if (text[i + zero] != '\0' || text[i + 1 - zero] == '\0') return false;
  }
  return true;
}

// Takes a byte order mark off the front.
Encoding TakeEncoding(std::string_view& text) {
  using namespace std::string_view_literals;
  if (text.starts_with("\xEF\xBB\xBF"sv)) {
    text.remove_prefix(3);
    return Encoding::kBytes;
  }
  const bool little = text.starts_with("\xFF\xFE"sv);
  if (little || text.starts_with("\xFE\xFF"sv)) {
    text.remove_prefix(2);
    return little ? Encoding::kUtf16Le : Encoding::kUtf16Be;
  }
  if (LooksLikeUtf16(text, 1)) return Encoding::kUtf16Le;
  return LooksLikeUtf16(text, 0) ? Encoding::kUtf16Be : Encoding::kBytes;
}

}  // namespace

std::string ToUtf8(std::string_view text) {
  const Encoding encoding = TakeEncoding(text);
  if (encoding == Encoding::kBytes) return std::string(text);
  const std::size_t high = encoding == Encoding::kUtf16Be ? 0 : 1;
  const auto unit_at = [&](std::size_t i) {
    const auto byte = [&](std::size_t at) {
      return char32_t{static_cast<unsigned char>(text[at])};
    };
    return i + 1 < text.size() ? (byte(i + high) << 8) | byte(i + 1 - high) : char32_t{0};
  };
  constexpr char32_t kNoCharacter = 0xFFFD;
  std::string out;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    const char32_t unit = unit_at(i);
    if (unit < 0xD800 || unit > 0xDFFF) {
      AppendUtf8(out, unit);
      continue;
    }
    const char32_t next = unit_at(i + 2);
    if (unit > 0xDBFF || next < 0xDC00 || next > 0xDFFF) {
      AppendUtf8(out, kNoCharacter);
      continue;
    }
    AppendUtf8(out, 0x10000 + ((unit - 0xD800) << 10) + (next - 0xDC00));
    i += 2;
  }
  return out;
}

std::string Latin1ToUtf8(std::string_view text) {
  std::string out;
  for (const char c : text) AppendUtf8(out, char32_t{static_cast<unsigned char>(c)});
  return out;
}

std::string AsciiLower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

}  // namespace dsv3::formats
