#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "formats/dtype.h"
#include "formats/shape.h"

// packed.json: what a packed checkpoint holds, written last; docs/packed.md has the schema. It
// holds nothing that differs between two runs of one job, and no paths. Digests are lowercase hex.
namespace dsv3::convert {

inline constexpr std::string_view kPackedManifestName = "packed.json";

// A file of the original.
struct PackedManifestFile {
  std::string name;  // relative, '/' between components; never leads out of the directory
  std::uint64_t bytes = 0;
  std::string sha256;  // empty (absent) where digests were not wanted
  // Whether it is kept as the packed file PackedName(); else it is kept as it is under its own
  // name, and the two members behind are 0 and empty.
  bool packed = false;
  std::uint64_t packed_bytes = 0;
  std::string packed_sha256 = {};

  // name + ".packed".
  std::string PackedName() const;
};

struct PackedManifestTensor {
  std::string name;
  std::string file;  // of the original
  formats::Dtype dtype = formats::Dtype::kU8;
  formats::Shape shape;
  std::string xxh3;  // XXH3-128 of the tensor's bytes
  // XXH3-128 of the base's tensor that it was packed against, in this dtype and shape; empty for a
  // tensor that was packed alone.
  std::string base_xxh3 = {};
};

struct PackedManifest {
  std::vector<PackedManifestFile> files;      // sorted by name
  std::vector<PackedManifestTensor> tensors;  // by file, then in the order of their data

  // Whether a base is needed to unpack it: some tensor was packed against one.
  bool NeedsBase() const;
  const PackedManifestFile* FindFile(std::string_view name) const;  // nullptr when there is none
  // The tensors of each original file that has any, in their order.
  std::map<std::string_view, std::vector<const PackedManifestTensor*>> TensorsByFile() const;
};

// One file and one tensor a line. Equal values give equal bytes.
std::string SerializePackedManifest(const PackedManifest& manifest);

// Parses packed.json. Members that it does not know are skipped. Rejects: another format or
// version, missing and repeated members, names that leave the directory, files that would lie in
// one place, or in that of packed.json, tensors of files that are not packed, two tensors of one
// name in a file, digests that are not lowercase hex of their length, tensors without a byte size,
// and a text that is not the one which its own digest was made of: any changed bit.
// `file` is the name for errors. Throws Error (kBadInput).
PackedManifest ParsePackedManifest(std::string_view text, const std::string& file);

}  // namespace dsv3::convert
