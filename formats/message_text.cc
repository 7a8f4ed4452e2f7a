#include "formats/message_text.h"

#include <algorithm>
#include <array>
#include <system_error>

#include <fmt/format.h>

#include "formats/given_paths.h"
#include "formats/json/utf8.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;

unsigned Byte(std::string_view text, std::size_t position) {
  return position < text.size() ? static_cast<unsigned char>(text[position]) : 0U;
}

bool IsPlain(std::string_view text) {
  constexpr std::string_view kMarks = "/._-+=:,@%";
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool is_digit = c >= '0' && c <= '9';
    return is_letter || is_digit || static_cast<unsigned char>(c) >= 0x80 ||
           kMarks.find(c) != std::string_view::npos;
  });
}

// In $'...', where no byte that is not plain ASCII text is left.
std::string Escaped(std::string_view text) {
  std::string escaped = "$'";
  std::size_t valid = FindInvalidUtf8(text);
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t hidden = i >= valid ? 1 : HiddenCharacter(text, i);
    for (std::size_t k = 0; k < hidden; ++k) escaped += fmt::format("\\x{:02x}", Byte(text, i + k));
    if (hidden == 0) {
      if (text[i] == '\'' || text[i] == '\\') escaped += '\\';
      escaped += text[i];
    }
    i += hidden == 0 ? 1 : hidden;
    if (i > valid) valid = i + FindInvalidUtf8(text.substr(i));
  }
  return escaped + '\'';
}

}  // namespace

std::string ShownBytes(std::uint64_t bytes) {
  constexpr std::array<const char*, 6> kUnits = {"kB", "MB", "GB", "TB", "PB", "EB"};
  if (bytes < 1000) return bytes == 1 ? "1 byte" : fmt::format("{} bytes", bytes);
  double value = static_cast<double>(bytes) / 1000;
  std::size_t unit = 0;
  // 999.95 would be shown as 1000.0.
  while (value >= 999.95 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string ExactBytes(std::uint64_t bytes) {
  if (bytes < 1000) return ShownBytes(bytes);
  return fmt::format("{} ({} bytes)", ShownBytes(bytes), ShownCount(bytes));
}

std::string ShownCount(std::uint64_t count) {
  std::string text = std::to_string(count);
  for (std::size_t from_end = 3; from_end < text.size(); from_end += 4) {
    text.insert(text.size() - from_end, 1, ',');
  }
  return text;
}

std::size_t HiddenCharacter(std::string_view text, std::size_t position) {
  const auto byte = [&](std::size_t i) { return Byte(text, position + i); };
  const bool is_there = position < text.size();
  if (is_there && (byte(0) < 0x20 || byte(0) == 0x7F)) return 1;
  if (byte(0) == 0xC2 && byte(1) >= 0x80 && byte(1) < 0xA0) return 2;
  if (byte(0) == 0xE2 && byte(1) == 0x80 && byte(2) >= 0xAA && byte(2) <= 0xAE) return 3;
  if (byte(0) == 0xE2 && byte(1) == 0x81 && byte(2) >= 0xA6 && byte(2) <= 0xA9) return 3;
  return 0;
}

std::string ShellWord(std::string_view text) {
  bool hidden = FindInvalidUtf8(text) != text.size();
  for (std::size_t i = 0; i < text.size() && !hidden; ++i) hidden = HiddenCharacter(text, i) != 0;
  if (hidden) return Escaped(text);
  if (IsPlain(text)) return std::string(text);
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c;
    }
  }
  return quoted + '\'';
}

std::string ShownPath(const fs::path& path) { return ShellWord(AsGiven(path).native()); }

std::string ShownAbsolutePath(const fs::path& path) {
  std::error_code error;
  fs::path absolute = fs::absolute(path, error);
  if (error) return ShellWord(path.native());
  // Where links are on the way, ".." cannot be taken out of the text alone.
  const bool has_parents = std::count(absolute.begin(), absolute.end(), fs::path("..")) != 0;
  fs::path normal = has_parents ? fs::weakly_canonical(absolute, error) : absolute;
  if (error) normal = absolute;
  normal = normal.lexically_normal();
  // "/models/v3/" names what "/models/v3" does.
  return ShellWord((normal.has_filename() ? normal : normal.parent_path()).native());
}

}  // namespace dsv3::formats
