#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// SHA256SUMS in the form of coreutils' sha256sum: "HEX  NAME" lines, names with a backslash,
// newline or carriage return escaped and the line then begun with a backslash. `sha256sum -c` reads
// it.
namespace dsv3::formats {

inline constexpr std::string_view kSumsName = "SHA256SUMS";
inline constexpr std::uint64_t kMaxSumsBytes = std::uint64_t{64} << 20;

struct SumsEntry {
  std::string name;  // as it is on the disk; any bytes but NUL
  std::string sha256;
};

struct SumsFile {
  std::vector<SumsEntry> entries;      // in the order of the file
  std::vector<std::size_t> bad_lines;  // numbers of lines that are of no known form, from 1
};

// One line, its newline included.
std::string SumsLine(std::string_view name, std::string_view sha256);

// Reads the default form, the binary one ("HEX *NAME"), and that of --tag ("SHA256 (NAME) = HEX");
// skips empty lines and those that begin with '#'. A "./" before a name is dropped. Digests come
// back in lowercase. Names are not judged: see OutsidePath.
SumsFile ParseSums(std::string_view text);

}  // namespace dsv3::formats
