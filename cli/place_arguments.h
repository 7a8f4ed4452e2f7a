#pragma once

#include <string>

#include "cli/option_table.h"

// The meaning of a path on the command line, before anything is opened.
namespace dsv3::cli {

// The path for an argument or option value `value`, called `name` in messages. A path that exists
// is taken as it is. Of a repository of the Hugging Face hub, as ORG/NAME, hf://ORG/NAME or its
// web address, it is the repository's directory in the hub cache where that is there; with a
// revision (ORG/NAME@REVISION, hf://ORG/NAME@REVISION, …/tree/REVISION) the snapshot of that one.
// Throws Error (kUsage) for any other address (s3://…, host:path), for "~/…" and "-", and for a
// repository that the cache lacks, with the command that downloads it.
std::string InputPath(const std::string& name, const std::string& value);

// The same for a directory that is written. Throws Error (kUsage) for an address, for "~/…"
// and "-", and for a name that is a file's (model.safetensors, model.gguf) where no directory of
// that name exists.
std::string OutputDirectory(const std::string& name, const std::string& value);

// A path of the given use, by the functions above for a checkpoint and for a directory that is
// written; of a file, the value itself. Messages then show it as it was given
// (formats::NoteGivenPath). Throws Error (kUsage) for an address and for "~/…".
std::string PlacedPath(PathUse use, const std::string& name, const std::string& value);

}  // namespace dsv3::cli
