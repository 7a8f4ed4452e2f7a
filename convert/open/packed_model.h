#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "convert/open/base_tensors.h"
#include "convert/open/model_files.h"
#include "convert/open/open_model.h"
#include "convert/packing/packed_file.h"
#include "convert/packing/packed_manifest.h"
#include "formats/freed_shard.h"

namespace dsv3::convert {

// Whether a directory holds a packed.json.
bool IsPackedDirectory(const std::filesystem::path& input);

// Whether it does, and no safetensors files lie beside that: all there is is packed.
bool IsPackedAlone(const std::filesystem::path& input);

struct OpenedPacked {
  // The original: its files without paths (those that hold a wanted tensor), side files, the
  // tensors and how they are made. Nothing is compared with a config.
  OpenedModel model;
  PackedManifest manifest;
  // The text of the original's index and the heads of its shards, which model.assembled lacks: of
  // 90,000 tensors they are tens of megabytes, which their owner may give away.
  ModelFiles texts;
};

struct PackedOptions {
  // Which tensors are opened; empty: all.
  std::function<bool(const std::string& tensor)> wanted = {};
  // The checkpoint against which tensors were packed; nullptr: none. It goes to the end of
  // AssembledModel::stored.
  BaseTensors* base = nullptr;
};

// Reads packed.json of a directory. Errors call it `file`. Throws Error: kBadInput where it is
// missing or damaged; kIo.
PackedManifest ReadPackedManifest(const std::filesystem::path& directory,
                                  const std::string& file = std::string(kPackedManifestName));

// Whether a packed file holds the tensors that packed.json lists for it, in this order.
bool HoldsListed(const PackedHead& head, const std::vector<const PackedManifestTensor*>& listed);

// Opens the packed checkpoint in a directory by its headers alone. The seek table of a tensor is
// read with the tensor, so all but the headers may be damaged. Throws Error: kBadInput where there
// is no packed.json or it is damaged, for packed files that are missing, of another size than it
// says, or not those that it describes, and for a base that lacks a tensor which is needed in its
// dtype and shape; kUsage where a base is needed and not given, or given and not needed; kIo.
OpenedPacked OpenPacked(const std::filesystem::path& input, const PackedOptions& options = {});
// The same with its packed.json, which was read already.
OpenedPacked OpenPacked(const std::filesystem::path& input, PackedManifest manifest,
                        const PackedOptions& options = {});

// The part of OpenModel for a directory that IsPackedAlone: the checkpoint that was packed, judged
// like one that lies there. `open` opens it by the heads of its files, which it is given as if the
// files had been freed. `base` is the checkpoint against which it was packed, or empty; where none
// is needed, it is not opened. Throws Error as OpenPacked, BaseTensors and `open` do.
OpenedModel OpenPackedCheckpoint(
    const std::filesystem::path& input, const std::filesystem::path& base,
    const std::function<OpenedModel(std::vector<formats::FreedShard> heads)>& open);

}  // namespace dsv3::convert
