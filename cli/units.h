#pragma once

#include <cstdint>
#include <string>
#include <string_view>

// Amounts and foreign text as a person reads them.
namespace dsv3::cli {

// "512 bytes", "1.2 kB", "688.6 GB": powers of 1000, one decimal.
std::string FormatBytes(std::uint64_t bytes);

// "1,369,012,345".
std::string FormatCount(std::uint64_t count);

// FormatCount with the noun in its number: "1 file", "163 files".
std::string FormatCountOf(std::uint64_t count, std::string_view noun);

// "671B", "37B", "1.4B", "23.5M", "512": the usual names of a model's size. Billions and millions
// are rounded to whole ones from 10 on.
std::string FormatParameters(std::uint64_t count);

// "0.4 s", "12 s", "3 min 20 s", "2 h 05 min".
std::string FormatSeconds(double seconds);

// "3:20", "2:05:00": for the progress display.
std::string FormatClock(double seconds);

// `text` with every control character and every byte that is not UTF-8 as \xNN, so that a name out
// of a hostile file can neither move the cursor nor forge a line.
std::string Printable(std::string_view text);

// `text` with bytes that are not UTF-8 replaced by U+FFFD: for JSON.
std::string Utf8Of(std::string_view text);

}  // namespace dsv3::cli
