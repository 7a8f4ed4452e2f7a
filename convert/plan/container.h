#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/dtype.h"
#include "formats/shape.h"

// The file formats that weights are written in.
namespace dsv3::convert {

// A tensor and its place in a file.
struct TensorEntry {
  std::string name;
  formats::Dtype dtype = formats::Dtype::kU8;
  formats::Shape shape;
  std::uint64_t offset = 0;  // of its first byte, from the first byte of the data
  std::uint64_t bytes = 0;

  std::uint64_t end() const { return offset + bytes; }
};

// What a header says beside the tensors: keys and values.
using FileMetadata = std::vector<std::pair<std::string, std::string>>;

// What a file's header says.
struct ContainerHeader {
  std::vector<TensorEntry> tensors;  // by offset
  std::uint64_t data_offset = 0;     // bytes before the data
  std::string digest;                // XXH3-128 of these, lowercase hex
};

// A file format: a header, then the tensors' bytes, with gaps of zeros where the format aligns
// them. Immutable, so threads may share it.
class Container {
 public:
  virtual ~Container() = default;

  // How the names of its files end: ".safetensors".
  virtual std::string_view suffix() const = 0;

  // Offsets of tensors are multiples of it.
  virtual std::uint64_t alignment() const = 0;

  // Puts the tensors into the order in which the format's own writer has them, and sets `offset`
  // and `bytes`, from 0 on. Throws Error (kInternal) when the bytes of a tensor overflow.
  virtual void LayOut(std::vector<TensorEntry>& tensors) const = 0;

  // The bytes before the data of a file that holds these tensors at these places. Throws Error
  // (kBadInput) when the header is longer than readers take.
  virtual std::string Header(const std::vector<TensorEntry>& tensors,
                             const FileMetadata& metadata) const = 0;

  // Reads the header of a file. `name` is what errors call it. Throws Error: kBadInput when it is
  // not of this format or damaged, kIo.
  virtual ContainerHeader ReadHeader(const std::filesystem::path& path,
                                     const std::string& name) const = 0;
};

const Container& Safetensors();

// The container of a file of this name, by its suffix; nullptr for other files.
const Container* ContainerOf(std::string_view name);

}  // namespace dsv3::convert
