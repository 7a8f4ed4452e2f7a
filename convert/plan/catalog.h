#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint_files.h"
#include "formats/dtype.h"
#include "formats/name_table.h"
#include "formats/shape.h"

namespace dsv3::convert {

// A source file as it was when the catalog was made.
struct SourceFile {
  std::string name;  // relative to the checkpoint, for messages and the manifest
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::int64_t mtime_ns = 0;
  std::string header_digest;  // XXH3-128 of the bytes before the data, hex
};

// Where a tensor's bytes lie.
struct Extent {
  std::uint32_t file = 0;    // position in Catalog::files()
  std::uint64_t offset = 0;  // from the start of the file
  std::uint64_t length = 0;
};

struct CatalogTensor {
  std::string name;
  formats::Dtype dtype = formats::Dtype::kU8;
  formats::Shape shape;
  Extent extent;
};

// Every tensor of a source: name → dtype, shape, place. Immutable once built, so threads may share
// it. Tensors keep the order of their files and, within one, of their data.
class Catalog {
 public:
  // Takes the headers out of `files` (their tensor lists are empty afterwards). The files must be
  // consistent (formats::RequireConsistent).
  static Catalog FromCheckpoint(formats::CheckpointFiles& files);

  Catalog(std::vector<SourceFile> files, std::vector<CatalogTensor> tensors);

  const std::vector<SourceFile>& files() const { return files_; }
  const std::vector<CatalogTensor>& tensors() const { return tensors_; }
  // Position in tensors(), or kNone.
  static constexpr std::uint32_t kNone = formats::NameTable::kNone;
  std::uint32_t Find(std::string_view name) const;

 private:
  std::vector<SourceFile> files_;
  std::vector<CatalogTensor> tensors_;
  formats::NameTable by_name_;
};

}  // namespace dsv3::convert
