#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "convert/packing/packed_manifest.h"
#include "convert/stream/file_digests.h"
#include "convert/verify/checksum.h"
#include "formats/finding.h"
#include "formats/manifest.h"

// What checksums are compared with; an internal part of checksum.h.
namespace dsv3::convert {

// What is known of one file; what is not known is empty.
struct ExpectedFile {
  std::optional<std::uint64_t> bytes;
  std::string sha256;
  std::string git_blob_sha1;
  std::string pointer_sha1;  // see HubFile
  std::string header_xxh3;
  bool outdated = false;        // see HubFile
  std::string record;           // what says so, for messages
  std::uint64_t alignment = 1;  // of the places of tensors in the file
  // Of a manifest, in file order.
  std::vector<const formats::ManifestTensor*> tensors;

  // Where the tensors lie, by their order: a file is its header and then they, each at a multiple
  // of the alignment. Nothing when they do not fit into the file.
  std::optional<std::vector<DigestRange>> Layout() const;
};

struct ChecksumBasis {
  CheckChecksumsReport::Basis kind = CheckChecksumsReport::Basis::kManifest;
  std::string name;
  formats::Manifest manifest;  // kManifest; `files` points into it
  std::map<std::string, ExpectedFile> files;
  // kPacked; nothing where packed.json cannot be read: then there is nothing to compare with.
  std::optional<PackedManifest> packed;
  // kSha256Sums: the lists that were read. They need not name all files, nor themselves. kPacked:
  // packed.json.
  std::set<std::string> lists;
  formats::Findings findings;  // of the basis itself
};

// The first basis that there is, see CheckChecksums; `with_hub` lets hub metadata count. Nothing
// when there is none. `manifest` may also be a list of digests. Throws Error: kBadInput when
// `manifest` is given and cannot be read, or when
// the only basis cannot; kIo.
std::optional<ChecksumBasis> FindChecksumBasis(const std::filesystem::path& directory,
                                               const std::filesystem::path& manifest,
                                               bool with_hub);

// Reads the manifest of a directory. Throws Error (kBadInput when it is missing or malformed).
formats::Manifest ReadManifestFile(const std::filesystem::path& path);

}  // namespace dsv3::convert
