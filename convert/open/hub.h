#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "formats/finding.h"

// The records that downloads by huggingface_hub leave behind, which say which bytes a file must
// have. No network is used. docs/verify.md says which record is trusted when.
namespace dsv3::convert {

// The facts about one file in the hub's records.
struct HubFile {
  // At most one digest is known. SHA-256 of the content, for files in git-lfs.
  std::string sha256;
  // Git's blob sha1 of the content, for files in git itself.
  std::string git_blob_sha1;
  // Git's blob sha1 of the git-lfs pointer in place of the content: where the records of a file in
  // git-lfs give no SHA-256.
  std::string pointer_sha1;
  std::optional<std::uint64_t> bytes;
  // The file was changed after its record was written.
  bool outdated = false;
  std::string record;  // the source of the digest, for messages: a path, or "the blob's name"
};

struct HubRecords {
  std::map<std::string, HubFile> files;  // by relative name
  std::string description;               // which kinds of records were used
  formats::Findings findings;            // records that cannot be read, contradictions
};

// Reads the records about `directory`: a local directory with .cache/huggingface, or a snapshot in
// a hub cache. Nothing when there are none. A Xet hash is never taken for a SHA-256, though both
// have 64 hex digits. Throws Error kIo.
std::optional<HubRecords> ReadHubRecords(const std::filesystem::path& directory);

// The SHA-256 that a git-lfs pointer names, when `text` is one.
struct LfsPointer {
  std::string sha256;
  std::uint64_t bytes = 0;
};
std::optional<LfsPointer> ParseLfsPointer(std::string_view text);
// The pointer's text for a content.
std::string LfsPointerText(const LfsPointer& pointer);

}  // namespace dsv3::convert
