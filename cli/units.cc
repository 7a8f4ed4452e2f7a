#include "cli/units.h"

#include <array>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "formats/json/utf8.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

// Calls `good` for each stretch of well-formed UTF-8 and `bad` for each byte that does not belong
// to it.
template <typename Good, typename Bad>
void ForEachUtf8Part(std::string_view text, const Good& good, const Bad& bad) {
  while (!text.empty()) {
    const std::size_t length = formats::FindInvalidUtf8(text);
    if (length > 0) good(text.substr(0, length));
    if (length == text.size()) return;
    bad(text[length]);
    text.remove_prefix(length + 1);
  }
}

std::string EscapedByte(char byte) {
  return fmt::format("\\x{:02x}", static_cast<unsigned>(static_cast<unsigned char>(byte)));
}

}  // namespace

std::string FormatBytes(std::uint64_t bytes) { return formats::ShownBytes(bytes); }

std::string FormatCount(std::uint64_t count) { return formats::ShownCount(count); }

std::string FormatCountOf(std::uint64_t count, std::string_view noun) {
  return FormatCount(count) + " " + std::string(noun) + (count == 1 ? "" : "s");
}

std::string FormatParameters(std::uint64_t count) {
  constexpr std::array<std::pair<double, const char*>, 4> kUnits = {
      {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}}};
  for (const auto& [unit, name] : kUnits) {
    const double value = static_cast<double>(count) / unit;
    // What rounds to 1000 of a smaller unit is one of this.
    if (value >= 0.9995) return fmt::format("{:.{}f}{}", value, value < 9.95 ? 1 : 0, name);
  }
  return std::to_string(count);
}

std::string FormatSeconds(double seconds) {
  if (seconds < 9.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::uint64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

std::string FormatClock(double seconds) {
  const auto whole = static_cast<std::uint64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole % 3600 / 60, whole % 60);
}

std::string Printable(std::string_view text) {
  std::string out;
  ForEachUtf8Part(
      text,
      [&](std::string_view good) {
        for (std::size_t i = 0; i < good.size();) {
          const std::size_t hidden = formats::HiddenCharacter(good, i);
          for (std::size_t k = 0; k < hidden; ++k) out += EscapedByte(good[i + k]);
          if (hidden == 0) out += good[i];
          i += hidden == 0 ? 1 : hidden;
        }
      },
      [&](char bad) { out += EscapedByte(bad); });
  return out;
}

std::string Utf8Of(std::string_view text) {
  std::string out;
  ForEachUtf8Part(
      text, [&](std::string_view good) { out += good; }, [&](char) { out += "\xEF\xBF\xBD"; });
  return out;
}

}  // namespace dsv3::cli
