#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/finding.h"

// Files that are there and are not what their names say, judged by their first and last bytes.
namespace dsv3::convert {

// "unreadable-shard" where `name` is that of a safetensors or GGUF file, and its header cannot be
// read or describes more than the file has. Nothing for other names. Throws Error (kIo).
std::optional<formats::Finding> FindUnreadableHeader(const std::filesystem::path& path,
                                                     const std::string& name);

// Adds what FindBrokenSideFile says of these files of the directory, with this severity.
void AddBrokenSideFiles(const std::filesystem::path& directory,
                        const std::vector<std::string>& names, formats::Severity severity,
                        formats::Findings& findings);

// Of a directory, beside its safetensors files: "unreadable-config" for a config.json that is no
// JSON object, "broken-side-file", and where no safetensors file is there "unreadable-shard" for
// its GGUF files. All are errors. Throws Error (kIo).
formats::Findings FindBrokenFiles(const std::filesystem::path& directory);

// Whether a finding says that a file is there and is not what its name says: those of the functions
// above, and of opening. Digests, where there are some, say the same.
bool SaysBroken(const formats::Finding& finding);

}  // namespace dsv3::convert
