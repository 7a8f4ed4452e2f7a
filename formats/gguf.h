#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf_type.h"
#include "formats/gguf_value.h"
#include "formats/shape.h"

// The GGUF file format of llama.cpp; docs/gguf.md has the byte layout.
namespace dsv3::formats {

class InputFile;

inline constexpr std::uint64_t kMaxGgufHeaderBytes = 100'000'000;
inline constexpr std::uint64_t kMaxGgufNameBytes = 64;  // of a tensor
inline constexpr std::uint64_t kMaxGgufKeyBytes = 65'535;
inline constexpr std::uint32_t kMaxGgufDimensions = 4;
inline constexpr std::uint32_t kGgufAlignment = 32;  // where general.alignment is absent
inline constexpr char kGgufAlignmentKey[] = "general.alignment";

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  Shape shape;               // outermost dimension first: the file has them the other way round
  std::uint64_t offset = 0;  // from the first byte of the data
  std::uint64_t bytes = 0;
};

struct GgufHeader {
  std::uint32_t version = 3;
  GgufKeys keys;
  std::vector<GgufTensor> tensors;  // in the order of the file, which is that of their data
  std::uint64_t alignment = kGgufAlignment;
  std::uint64_t data_offset = 0;  // bytes before the data
  std::uint64_t file_bytes = 0;
  std::string digest;  // XXH3-128 of the first data_offset bytes, lowercase hex
};

// The value of a key; nullptr where the file does not have it.
const GgufValue* FindGgufKey(const GgufKeys& keys, std::string_view key);

// Reads what is before the data and holds it against the file's length. Takes versions 2 and 3,
// little-endian. As llama.cpp's loader it wants each tensor to begin where the one before it ends,
// rounded up to the alignment; behind the last one there may be zeros up to the alignment. Refuses
// names that come twice, unknown types, arrays of arrays, bools that are not 0 or 1, and a header
// of more than kMaxGgufHeaderBytes. Time and memory are bounded by a small multiple of the header's
// length. Throws Error (kBadInput; kIo when the disk fails).
GgufHeader ReadGgufHeader(const InputFile& file);

// The same for a file on disk; errors call it `name`.
GgufHeader ReadGgufHeader(const std::filesystem::path& path, const std::string& name);

}  // namespace dsv3::formats
