#pragma once

#include <filesystem>

#include "convert/open/open_model.h"

// A directory as what it is, files of tensors and others, whatever model they are of: for packing,
// which gives all of them back.
namespace dsv3::convert {

// Opens `input`, a directory or one safetensors file, or a hub cache: every *.safetensors file in
// it, also in subdirectories, is a shard (see FindSharedNames), and every other file a side file,
// the manifest and checksum lists among them; only the index, which is `form`, is no side file.
// What lies below .git or .cache is left behind. Symlinks to files count as files. Nothing is
// compared with a config. A single file has no side files. Throws Error: kBadInput for an
// unfinished conversion, a directory without safetensors files, one that is not valid, an index
// that cannot be read or that lists a file that is not there, and what is packed already; kIo.
OpenedModel OpenFilesToPack(const std::filesystem::path& input, const OpenOptions& options);

}  // namespace dsv3::convert
