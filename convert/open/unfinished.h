#pragma once

#include <filesystem>

#include "formats/finding.h"

// What is not finished in a directory: a conversion into it, or a download of it.
namespace dsv3::convert {

// Looks at names alone, and at the journals of a conversion. Gives
// - "unfinished-conversion": an error that says how many of how many files are complete and which
//   command continues, where a journal says that a conversion is under way or was interrupted; a
//   warning for each other file that a conversion keeps until it is done (names that begin with
//   ".dsv3-" or end with ".partial"). Where nothing but such files says that a checkpoint is there
//   (no index, no layout.json, no manifest) they are an error, too.
// - "unfinished-download" (warning): files that downloaders keep until a download is complete
//   (.incomplete, .aria2, .part, .crdownload, below ._____temp), also the hub's in
//   .cache/huggingface/download and, for a snapshot of a hub cache, in its blobs.
// What `checksum create` and `sign` leave when they are killed is no finding. `directory` is one
// that exists, of a hub cache the snapshot. Throws Error (kIo).
formats::Findings FindUnfinished(const std::filesystem::path& directory);

// Whether the findings say that a conversion into the directory is not finished, so that whatever
// else is missing is missing for that reason.
bool HasUnfinishedConversion(const formats::Findings& findings);

// Throws the error of FindUnfinished (kBadInput) where `input` is the directory of an unfinished
// conversion: for whoever needs a whole checkpoint. Anything else passes, also what does not exist.
void RefuseUnfinishedConversion(const std::filesystem::path& input);

}  // namespace dsv3::convert
