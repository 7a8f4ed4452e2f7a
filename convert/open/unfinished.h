#pragma once

#include <filesystem>
#include <string_view>

#include "formats/finding.h"

// Finds an unfinished conversion into a directory, or an unfinished download of it.
namespace dsv3::convert {

inline constexpr std::string_view kUnfinishedDownload = "unfinished-download";

// Looks at names alone, and at the journals of a conversion. Gives
// - "unfinished-conversion": an error that says how many of how many files are complete and which
//   command continues, where a journal says that a conversion is under way or was interrupted; a
//   warning for each other file that a conversion keeps until it is done (names that begin with
//   ".dsv3-" or end with ".partial"). Where nothing but such files says that a checkpoint is there
//   (no index, no layout.json, no manifest) they are an error, too.
// - "unfinished-download" (warning): files that downloaders keep until a download is complete
//   (.incomplete, .aria2, .part, .crdownload, below ._____temp), also the hub's in
//   .cache/huggingface/download and, for a snapshot of a hub cache, in its blobs.
// Files that `checksum create` and `sign` leave when they are killed give no finding. `directory`
// must exist; for a hub cache it is the snapshot. Throws Error (kIo).
formats::Findings FindUnfinished(const std::filesystem::path& directory);

// Whether the findings say that a conversion into the directory is not finished, which is then the
// reason for anything else that is missing.
bool HasUnfinishedConversion(const formats::Findings& findings);

// Throws the error of FindUnfinished (kBadInput) where `input` is the directory of an unfinished
// conversion: for callers that need a whole checkpoint. Any other path passes, also one that does
// not exist.
void RefuseUnfinishedConversion(const std::filesystem::path& input);

}  // namespace dsv3::convert
