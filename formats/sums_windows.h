#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

// Digests as programs of Windows print them: certutil and PowerShell's Get-FileHash; an internal
// part of sums_file.h.
namespace dsv3::formats {

struct WindowsDigest {
  std::string algorithm;  // as it is printed, "SHA256"; empty where it is not
  std::string digits;
  std::string name;
  bool name_is_cut = false;  // PowerShell fits columns to the console
  std::size_t lines = 0;     // how many lines it takes
};

// The digest that these lines begin with, in one of the forms
// - `certutil -hashfile`: "SHA256 hash of NAME:" in the language of the system, and the digest on
//   the next line, of older versions with a blank behind each byte,
// - Format-List: "Algorithm : SHA256", "Hash : HEX", "Path : NAME", the first of which may be
//   missing; long values go on in lines that begin with blanks,
// - Format-Table: "SHA256  HEX  NAME",
// - Export-Csv: "SHA256","HEX","NAME".
// Nothing where they begin with another form.
std::optional<WindowsDigest> TakeWindowsDigest(std::span<const std::string_view> lines);

// Whether a line belongs to such an output and says nothing of a digest: a head of a table, or that
// certutil has done its work.
bool IsWindowsFrame(std::string_view line);

}  // namespace dsv3::formats
