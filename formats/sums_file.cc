#include "formats/sums_file.h"

#include <algorithm>
#include <optional>

namespace dsv3::formats {
namespace {

constexpr std::size_t kDigits = 64;
constexpr std::string_view kEscaped = "\\\n\r";

// The digest in lowercase; nothing when it is none.
std::optional<std::string> Digest(std::string_view text) {
  if (text.size() != kDigits) return std::nullopt;
  std::string digest(text);
  for (char& c : digest) {
    if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
  }
  if (digest.find_first_not_of("0123456789abcdef") != digest.npos) return std::nullopt;
  return digest;
}

std::optional<std::string> Unescaped(std::string_view text) {
  std::string name;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      name.push_back(text[i]);
      continue;
    }
    if (++i == text.size()) return std::nullopt;
    switch (text[i]) {
      case '\\':
        name.push_back('\\');
        break;
      case 'n':
        name.push_back('\n');
        break;
      case 'r':
        name.push_back('\r');
        break;
      default:
        return std::nullopt;
    }
  }
  return name;
}

std::optional<SumsEntry> ParseLine(std::string_view line) {
  const bool escaped = line.starts_with('\\');
  if (escaped) line.remove_prefix(1);
  std::string_view name;
  std::string_view digits;
  constexpr std::string_view kTag = "SHA256 (";
  constexpr std::string_view kTagEnd = ") = ";
  if (line.starts_with(kTag)) {
    const std::size_t end = line.rfind(kTagEnd);
    if (end == line.npos || end < kTag.size()) return std::nullopt;
    name = line.substr(kTag.size(), end - kTag.size());
    digits = line.substr(end + kTagEnd.size());
  } else {
    if (line.size() < kDigits + 2 || line[kDigits] != ' ') return std::nullopt;
    if (line[kDigits + 1] != ' ' && line[kDigits + 1] != '*') return std::nullopt;
    digits = line.substr(0, kDigits);
    name = line.substr(kDigits + 2);
  }
  const std::optional<std::string> sha256 = Digest(digits);
  std::optional<std::string> plain = escaped ? Unescaped(name) : std::string(name);
  if (!sha256 || !plain || plain->empty()) return std::nullopt;
  while (plain->starts_with("./") && plain->size() > 2) plain->erase(0, 2);
  return SumsEntry{std::move(*plain), *sha256};
}

}  // namespace

std::string SumsLine(std::string_view name, std::string_view sha256) {
  std::string line;
  if (name.find_first_of(kEscaped) != name.npos) line.push_back('\\');
  line += sha256;
  line += "  ";
  for (const char c : name) {
    if (c == '\\') {
      line += "\\\\";
    } else if (c == '\n') {
      line += "\\n";
    } else if (c == '\r') {
      line += "\\r";
    } else {
      line.push_back(c);
    }
  }
  line.push_back('\n');
  return line;
}

SumsFile ParseSums(std::string_view text) {
  SumsFile sums;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.empty() || line[0] == '#') continue;
    if (std::optional<SumsEntry> entry = ParseLine(line)) {
      sums.entries.push_back(std::move(*entry));
    } else {
      sums.bad_lines.push_back(number);
    }
  }
  return sums;
}

}  // namespace dsv3::formats
