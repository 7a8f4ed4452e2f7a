#pragma once

#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>

namespace dsv3::cli {

// What a file holds that an option names.
enum class OutputContent { kJUnit, kSarif, kSvg, kNumpy, kTrace };

// Throws Error where the file that --OPTION names could not be written, so that this shows before
// hours of work: kUsage where its directory is not there, where it is a directory itself, and where
// it is JSON or no text and holds something else, so that a path that was mistyped costs no file of
// a model; kIo where permissions or the disk do not allow it. Empty: none is named.
void CheckOutputFile(const char* option, const std::string& file, OutputContent content);

// Writes a file that an option names, through links to what these lead to. Throws Error (kIo).
void WriteOutputFile(const std::string& file, std::string_view content);

// A file that an option names, to be read or written. Empty: none is named.
struct NamedFile {
  const char* option;
  std::filesystem::path file;
};

// Throws Error (kUsage) where two of the options name the same file.
void RequireDistinctFiles(std::initializer_list<NamedFile> files);

}  // namespace dsv3::cli
