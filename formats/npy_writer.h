#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "formats/io/durable_file.h"
#include "formats/io/file_system.h"
#include "formats/shape.h"

namespace dsv3::formats {

// The first bytes, a multiple of 64, of a .npy file of version 1.0 with float32 elements in C
// order: what numpy.save writes, byte for byte. Throws Error (kInternal) for more than
// kMaxNpyDimensions dimensions.
std::string NpyFloatHeader(const Shape& shape);

// Writes a .npy file of float32 elements in C order, in pieces of any order. At every moment there
// is the old file, or none, or the complete new one. numpy.load reads it, with mmap_mode too. Used
// by one thread at a time. An Error of any call ends the writing.
class NpyWriter {
 public:
  // Makes PATH.partial and reserves its space, where the file system can do that. `fs` must outlive
  // the writer. Throws Error: kUsage where `path` is a directory, kIo where the file cannot be
  // made or has no room, kInternal for a shape whose bytes cannot be counted.
  NpyWriter(FileSystem& fs, const std::filesystem::path& path, const Shape& shape);

  // Writes the elements [begin, begin + values.size()). Throws Error: kInternal for elements that
  // the array does not have or that were written before, kIo.
  void Write(std::uint64_t begin, std::span<const float> values);

  // Names the complete file, durably. Without it the destructor removes PATH.partial. Throws Error:
  // kInternal when an element is missing, kIo.
  void Commit();

 private:
  [[noreturn]] void FailInternal(const std::string& problem) const;

  std::filesystem::path path_;
  std::string header_;
  std::uint64_t num_elements_;
  DurableFile file_;
  std::map<std::uint64_t, std::uint64_t> written_;  // begin → end; apart, and never side by side
};

}  // namespace dsv3::formats
