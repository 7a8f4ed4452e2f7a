#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "formats/dtype.h"
#include "formats/seek_table.h"
#include "formats/shape.h"
#include "tests/support/weight_samples.h"

// Packed chunks, files and directories for tests, made by the codec alone.
namespace dsv3::testing {

// A chunk and the sizes of its frames.
struct PackedBytes {
  std::string bytes;
  std::vector<formats::SeekEntry> frames;
};

PackedBytes PackChunk(formats::Dtype dtype, std::string_view raw, std::string_view base = {});

struct TensorBytes {
  std::string name;
  formats::Dtype dtype = formats::Dtype::kU8;
  formats::Shape shape;
  std::string bytes;
};

// A safetensors file of these tensors, in this order. `padding` goes behind the header's JSON.
std::string SafetensorsFile(const std::vector<TensorBytes>& tensors, std::string_view padding = {});

// The packed form of a safetensors file; tensors are packed against those of `base`, another one,
// that have the same name and size. No base where it is empty.
std::string PackFile(const std::string& safetensors, const std::string& base = {});

// Packs a directory of such files (*.safetensors are packed, others kept) with packed.json.
void PackDirectory(const std::filesystem::path& in, const std::filesystem::path& out,
                   const std::filesystem::path& base = {});

// The text of a packed.json that was edited, with the digest of what it is now.
std::string SignedList(std::string text);

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace dsv3::testing
