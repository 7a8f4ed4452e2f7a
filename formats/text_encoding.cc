#include "formats/text_encoding.h"

#include <cstddef>

#include "formats/json/utf8.h"

namespace dsv3::formats {
namespace {

constexpr char32_t kNoCharacter = 0xFFFD;

enum class Encoding { kBytes, kUtf16Le, kUtf16Be, kUtf32Le, kUtf32Be };

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

// The same in UTF-32 whose byte that is not zero is at `at` of each four.
bool LooksLikeUtf32(std::string_view text, std::size_t at) {
  constexpr std::size_t kLooked = 128;
  if (text.size() < 4) return false;
  for (std::size_t i = 0; i + 3 < text.size() && i < kLooked; ++i) {
    if ((text[i] != '\0') != (i % 4 == at)) return false;
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
  // Before the mark of UTF-16, which this one begins with.
  const bool little32 = text.starts_with("\xFF\xFE\0\0"sv);
  if (little32 || text.starts_with("\0\0\xFE\xFF"sv)) {
    text.remove_prefix(4);
    return little32 ? Encoding::kUtf32Le : Encoding::kUtf32Be;
  }
  const bool little = text.starts_with("\xFF\xFE"sv);
  if (little || text.starts_with("\xFE\xFF"sv)) {
    text.remove_prefix(2);
    return little ? Encoding::kUtf16Le : Encoding::kUtf16Be;
  }
  if (LooksLikeUtf32(text, 0)) return Encoding::kUtf32Le;
  if (LooksLikeUtf32(text, 3)) return Encoding::kUtf32Be;
  if (LooksLikeUtf16(text, 1)) return Encoding::kUtf16Le;
  return LooksLikeUtf16(text, 0) ? Encoding::kUtf16Be : Encoding::kBytes;
}

// `high`: where the byte that counts more is in each two.
std::string FromUtf16(std::string_view text, std::size_t high) {
  const auto unit_at = [&](std::size_t i) {
    const auto byte = [&](std::size_t at) {
      return char32_t{static_cast<unsigned char>(text[at])};
    };
    return i + 1 < text.size() ? (byte(i + high) << 8) | byte(i + 1 - high) : char32_t{0};
  };
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

std::string FromUtf32(std::string_view text, bool little) {
  std::string out;
  for (std::size_t i = 0; i + 3 < text.size(); i += 4) {
    char32_t character = 0;
    for (std::size_t byte = 0; byte < 4; ++byte) {
      const std::size_t at = little ? i + 3 - byte : i + byte;
      character = (character << 8) | static_cast<unsigned char>(text[at]);
    }
    const bool is_one = character < 0xD800 || (character > 0xDFFF && character <= 0x10FFFF);
    AppendUtf8(out, is_one ? character : kNoCharacter);
  }
  return out;
}

}  // namespace

std::string ToUtf8(std::string_view text) {
  switch (TakeEncoding(text)) {
    case Encoding::kUtf16Le:
      return FromUtf16(text, 1);
    case Encoding::kUtf16Be:
      return FromUtf16(text, 0);
    case Encoding::kUtf32Le:
      return FromUtf32(text, true);
    case Encoding::kUtf32Be:
      return FromUtf32(text, false);
    case Encoding::kBytes:
      break;
  }
  return std::string(text);
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
