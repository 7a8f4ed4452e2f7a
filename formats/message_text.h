#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

// The one form in which messages show paths, words of commands and amounts of bytes. Every message
// and report uses these: ShownPath for a path or a file's name, ExactBytes where a message is about
// a size, ShownBytes in reports. Values that a file holds, such as names of tensors, are shown by
// QuoteForMessage (formats/error.h).
namespace dsv3::formats {

// `text` as a shell takes it: unchanged where it is made of letters (also beyond ASCII), digits and
// / . _ - + = : , @ % alone; else in single quotes; and as $'...' with \xNN where it holds control
// characters, characters that change the direction of writing, or bytes that are not UTF-8. So a
// path can be copied from a message into a shell, and none can move the cursor or forge a line.
std::string ShellWord(std::string_view text);

// ShellWord of a path as the user gave it (given_paths.h).
std::string ShownPath(const std::filesystem::path& path);

// The same of the path from the root: a command that holds it runs in any directory.
std::string ShownAbsolutePath(const std::filesystem::path& path);

// "512 bytes", "1.2 kB", "688.6 GB": powers of 1000, one decimal. For reports and tables.
std::string ShownBytes(std::uint64_t bytes);

// "512 bytes", "1.2 kB (1,234 bytes)": for messages about a file's size, where every byte counts.
std::string ExactBytes(std::uint64_t bytes);

// "1,369,012,345".
std::string ShownCount(std::uint64_t count);

// The length in bytes of the character at `position` where a message must not hold it unchanged: a
// control character (C0, DEL, C1) or one that changes the direction of writing. 0 otherwise.
std::size_t HiddenCharacter(std::string_view text, std::size_t position);

}  // namespace dsv3::formats
