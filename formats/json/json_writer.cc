#include "formats/json/json_writer.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace dsv3::formats {
namespace {

// The character after the backslash: a letter, 'u' for \u00XX, or 0 where no escape is needed.
constexpr std::array<char, 128> EscapeLetters() {
  std::array<char, 128> letters{};
  for (std::size_t c = 0; c < 0x20; ++c) letters[c] = 'u';
  letters['\b'] = 'b';
  letters['\f'] = 'f';
  letters['\n'] = 'n';
  letters['\r'] = 'r';
  letters['\t'] = 't';
  letters['"'] = '"';
  letters['\\'] = '\\';
  return letters;
}
constexpr std::array<char, 128> kEscapeLetters = EscapeLetters();

void AppendUnicodeEscape(std::string& out, std::uint32_t unit) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  out += "\\u";
  for (int shift = 12; shift >= 0; shift -= 4) out += kDigits[unit >> shift & 0xF];
}

// Appends the multi-byte character at `i` as UTF-16 escapes and returns its length. Only the lead
// byte's word is taken for the length, cut at the end of the text.
std::size_t AppendEscapedCharacter(std::string& out, std::string_view text, std::size_t i) {
  const auto lead = static_cast<unsigned char>(text[i]);
  std::size_t bytes = 2;
  if (lead >= 0xE0) bytes = 3;
  if (lead >= 0xF0) bytes = 4;
  bytes = bytes < text.size() - i ? bytes : text.size() - i;
  std::uint32_t code_point = lead & (0xFFU >> (bytes + 1));
  for (std::size_t k = 1; k < bytes; ++k) {
    code_point = code_point << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3FU);
  }
  if (code_point >= 0x10000) {
    AppendUnicodeEscape(out, 0xD800 + ((code_point - 0x10000) >> 10 & 0x3FF));
    AppendUnicodeEscape(out, 0xDC00 + (code_point & 0x3FF));
  } else {
    AppendUnicodeEscape(out, code_point);
  }
  return bytes;
}

}  // namespace

void AppendJsonString(std::string& out, std::string_view value, JsonWriter::Charset charset) {
  out += '"';
  std::size_t begin = 0;  // of the text that is copied unchanged
  for (std::size_t i = 0; i < value.size();) {
    const auto c = static_cast<unsigned char>(value[i]);
    const bool beyond_ascii = c >= 0x80;
    char letter = beyond_ascii ? '\0' : kEscapeLetters[c];
    const bool ascii = charset == JsonWriter::Charset::kAscii;
    if (ascii && c == 0x7F) letter = 'u';  // as Python does
    if (letter == '\0' && !(beyond_ascii && ascii)) {
      ++i;
      continue;
    }
    out.append(value, begin, i - begin);
    if (beyond_ascii) {
      i += AppendEscapedCharacter(out, value, i);
    } else {
      if (letter == 'u') {
        AppendUnicodeEscape(out, c);
      } else {
        out += '\\';
        out += letter;
      }
      ++i;
    }
    begin = i;
  }
  out.append(value, begin);
  out += '"';
}

void JsonWriter::NewLine() {
  if (indent_ == 0) return;
  text_ += '\n';
  text_.append(static_cast<std::size_t>(indent_) * static_cast<std::size_t>(depth_), ' ');
}

void JsonWriter::BeforeValue() {
  if (after_key_) {
    after_key_ = false;
  } else if (depth_ > 0) {
    if (!first_) text_ += ',';
    NewLine();
  }
  first_ = false;
}

void JsonWriter::Begin(char opening) {
  BeforeValue();
  text_ += opening;
  ++depth_;
  first_ = true;
}

void JsonWriter::End(char closing) {
  --depth_;
  if (!first_) NewLine();
  text_ += closing;
  first_ = false;
}

void JsonWriter::BeginObject() { Begin('{'); }
void JsonWriter::EndObject() { End('}'); }
void JsonWriter::BeginArray() { Begin('['); }
void JsonWriter::EndArray() { End(']'); }

void JsonWriter::Key(std::string_view key) {
  BeforeValue();
  AppendJsonString(text_, key, charset_);
  text_ += indent_ == 0 ? ":" : ": ";
  after_key_ = true;
}

void JsonWriter::String(std::string_view value) {
  BeforeValue();
  AppendJsonString(text_, value, charset_);
}

void JsonWriter::Uint(std::uint64_t value) { Raw(std::to_string(value)); }
void JsonWriter::Int(std::int64_t value) { Raw(std::to_string(value)); }
void JsonWriter::Bool(bool value) { Raw(value ? "true" : "false"); }
void JsonWriter::Null() { Raw("null"); }

void JsonWriter::Double(double value) {
  if (!std::isfinite(value)) {
    Null();
    return;
  }
  // Python's limits between positional and exponential notation.
  const double magnitude = std::fabs(value);
  const bool positional = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  std::array<char, 64> buffer{};
  const auto result =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                    positional ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer.data(), result.ptr);
  if (positional && text.find('.') == std::string::npos) text += ".0";
  Raw(text);
}

void JsonWriter::Raw(std::string_view json) {
  BeforeValue();
  text_ += json;
}

}  // namespace dsv3::formats
