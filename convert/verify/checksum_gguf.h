#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "convert/verify/checksum_basis.h"
#include "convert/verify/directory_files.h"

// Checksums of a GGUF file, which lies among others in a directory; an internal part of checksum.h.
namespace dsv3::convert {

struct GgufChecksums {
  std::filesystem::path directory;     // that the file lies in; absolute
  std::vector<DirectoryFile> there;    // the file, or all splits of its model, as far as they exist
  std::optional<ChecksumBasis> basis;  // of these files alone; nothing where nothing names one
};

// Takes `manifest` where that is given, else the file's own manifest (formats::GgufManifestName),
// else whatever FindChecksumBasis finds in the directory. Throws Error as that does, and kBadInput
// for a `manifest` that names none of the files.
GgufChecksums FindGgufChecksums(const std::filesystem::path& file,
                                const std::filesystem::path& manifest);

}  // namespace dsv3::convert
