#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/dtype.h"
#include "formats/finding.h"
#include "formats/shape.h"

// The safetensors file format; docs/safetensors.md has the byte layout.
namespace dsv3::formats {

class InputFile;

inline constexpr std::uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct SafetensorsTensor {
  std::string name;
  Dtype dtype = Dtype::kU8;
  Shape shape;
  // Bytes [begin, end) of the data buffer, which starts at SafetensorsHeader::data_offset.
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

using SafetensorsMetadata = std::vector<std::pair<std::string, std::string>>;

struct SafetensorsHeader {
  std::vector<SafetensorsTensor> tensors;  // sorted by (begin, end)
  SafetensorsMetadata metadata;            // as stored; empty when absent or null
  std::uint64_t data_offset = 0;           // 8 + header length
  std::uint64_t file_bytes = 0;            // data_offset + the end of the last tensor
  // XXH3-128 of the first data_offset bytes of the file, lowercase hex.
  std::string digest;
  // Accepted by the reference, nonconforming (misalignment, unknown fields …). Only warnings:
  // anything that makes the file unusable is thrown.
  Findings nonconformities;
};

// Parses the header of a file of `file_bytes` bytes whose first bytes are `prefix`; the prefix must
// hold the 8-byte length and the whole header (or the whole file if that is shorter).
// Enforces what the reference enforces and, beyond it, rejects duplicate tensor names.
// Time and memory are bounded by a small multiple of the header's length. Each kind of
// nonconformity gives one finding, which names the first tensor concerned and counts the others.
// `file` is the name that errors use. Throws Error (kBadInput).
SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> prefix,
                                         std::uint64_t file_bytes, const std::string& file);

// Reads and parses the header of a file on disk. `file` is the name for errors. Says so when the
// file is a git-lfs pointer, an HTML or XML page, empty, a directory, a FIFO or another
// non-regular file (kBadInput); a missing file or symlink loop is kBadInput too; a failing disk or
// a missing permission is kIo.
SafetensorsHeader ReadSafetensorsHeader(const std::filesystem::path& path, const std::string& file);

// The same for a file that is open already; errors call it by its name().
SafetensorsHeader ReadSafetensorsHeader(const InputFile& file);

// Puts tensors into the reference writer's order (dtype order descending, then name by bytes) and
// assigns begin and end from the dtypes and shapes, back to back from 0.
// Throws Error (kInternal) when a tensor's bytes overflow.
void LayOutTensors(std::vector<SafetensorsTensor>& tensors);

// The first bytes of a file that holds these laid-out tensors: 8-byte length and compact JSON,
// padded with spaces to a multiple of 8, byte-identical to the reference's for at most one
// metadata key. `__metadata__` comes first; no metadata means no `__metadata__`.
// Throws Error (kBadInput) when the header would be longer than kMaxSafetensorsHeaderBytes.
std::string SerializeSafetensorsHeader(const std::vector<SafetensorsTensor>& tensors,
                                       const SafetensorsMetadata& metadata);

}  // namespace dsv3::formats
