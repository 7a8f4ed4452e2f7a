#pragma once

#include <filesystem>

// Where an output may be.
namespace dsv3::convert {

// Throws Error (kUsage) unless `output` and the input lie apart and a directory can be made there.
// An output may lie beside an input that is one file. An input that does not exist is not an error
// here; opening it is.
void RequirePlaces(const std::filesystem::path& input, const std::filesystem::path& output);

// The same for an output that is a file, with directories that are missing above it: it lies in no
// input directory.
void RequireFilePlace(const std::filesystem::path& input, const std::filesystem::path& output);

// Throws Error (kUsage) when `output` and the directory of an input are one or lie inside each
// other.
void RequireApart(const std::filesystem::path& input_directory,
                  const std::filesystem::path& output);

// The path without links and dots, comparable even where it does not exist yet. Throws Error:
// kUsage where there can be no such path (a name too long, a loop of links), kIo.
std::filesystem::path CanonicalPath(const std::filesystem::path& path);

}  // namespace dsv3::convert
