#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "convert/verify/checksum_basis.h"
#include "formats/error.h"

// The lists of SHA-256 digests in a directory, made by any tool; an internal part of checksum.h.
namespace dsv3::convert {

struct SumsLists {
  // What the lists say together, kind kSha256Sums; nothing where none of them lists a file.
  std::optional<ChecksumBasis> basis;
  // Lists that cannot be used; each error says what the file is instead.
  std::vector<Error> unreadable;
};

// Reads all lists below the directory (formats::IsSumsName), SHA256SUMS first. Names in a list are
// relative to its folder, or to the directory where they are there; where none of them is there, a
// folder that all of them begin with is left out if some are there then, for lists are also made
// from above the model. A list NAME.sha256 that
// holds one digest, alone, or with NAME's last part or "-" as its name, is about NAME beside it.
// Lists need not name all files. Throws Error (kIo).
SumsLists ReadSumsLists(const std::filesystem::path& directory);

// Reads one list that lies anywhere, with names relative to `directory`, otherwise like those
// above. Throws Error (kIo; kBadInput for a file that is no such list, which says what it is
// instead).
ChecksumBasis ReadSumsList(const std::filesystem::path& list,
                           const std::filesystem::path& directory);

}  // namespace dsv3::convert
