#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/safetensors.h"
#include "formats/shape.h"

// Safetensors files of a distributed checkpoint, each with boxes of tensors: what PyTorch's
// HuggingFaceStorageWriter writes with save_distributed; docs/torch-files.md describes them.
namespace dsv3::formats {

// "shard-00002-model-00001-of-00003.safetensors": the second rank's part of the first of 3 files.
struct DcpShardName {
  std::uint32_t shard = 0;  // from 1: the rank that wrote it, and 1
  std::uint32_t file = 0;   // from 1 to num_files
  std::uint32_t num_files = 0;
};

// Nothing for the name of another file.
std::optional<DcpShardName> ParseDcpShardName(std::string_view name);

// Whether a file's tensors are boxes of larger ones.
bool IsDcpShard(const SafetensorsHeader& header);

// The offsets of each of header.tensors in the tensor that it is a box of; as many as it has
// dimensions. A box may be empty. Tensors that the list names and the file does not hold are
// ignored. Refuses another version than 1.0, a list that is no strict JSON or not of the known
// form, a tensor that it does not name or names twice, other numbers of dimensions, and boxes that
// end beyond 64 bits. `file` is the name for errors. Throws Error (kBadInput).
std::vector<Shape> ReadDcpOffsets(const SafetensorsHeader& header, const std::string& file);

}  // namespace dsv3::formats
