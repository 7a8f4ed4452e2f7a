#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

// A directory of weight deltas as SGLang's /pull_weights applies it and slime publishes it:
// docs/pull-weights.md. Files of tensors that changed, under their own names, each a U8 vector that
// is one zstd frame; and an index, whose metadata says what they are.
namespace dsv3::convert {

// What a frame holds.
enum class PullEncoding {
  kXor,        // new bytes XOR old bytes
  kOverwrite,  // u32 count, so many u32 byte positions, so many new bytes; may be applied twice
};

// How the checksums of the new bytes are made, in the files' metadata under the tensors' names.
enum class PullChecksum { kXxh3, kAdler32 };

struct PullIndex {
  std::uint64_t version = 0;
  std::uint64_t base_version = 0;
  PullEncoding encoding = PullEncoding::kXor;
  PullChecksum checksum = PullChecksum::kXxh3;
  std::map<std::string, std::string> weight_map;  // tensor → file; may be empty
};

// "weight_v000007": the name of the directory under which engines look for a version.
std::string PullDirectoryName(std::uint64_t version);

// Whether the text of an index is that of such a directory.
bool IsPullIndex(std::string_view text);

// The index's text.
std::string SerializePullIndex(const PullIndex& index);

// Parses it. `file` is the name for errors. Throws Error (kBadInput) for a text that is not JSON,
// an encoding, a compression or a checksum that is not known, and versions that do not follow each
// other; file names that leave the directory.
PullIndex ParsePullIndex(std::string_view text, const std::string& file);

// The most bytes of a tensor whose positions fit an overwrite.
inline constexpr std::uint64_t kMostOverwrittenBytes = std::uint64_t{1} << 32;

}  // namespace dsv3::convert
