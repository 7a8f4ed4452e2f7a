#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint_files.h"
#include "formats/dtype.h"
#include "formats/file_range.h"
#include "formats/name_table.h"
#include "formats/shape.h"

namespace dsv3::convert {

// Bytes of a file whose CRC-32 an archive knows.
struct CheckedBytes {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint32_t crc = 0;
  std::string entry = {};  // the archive's name of them: "data/0"
};

// A source file as it was when the catalog was made.
struct SourceFile {
  std::string name;  // relative to its checkpoint
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::int64_t mtime_ns = 0;
  std::string header_digest;  // XXH3-128 of the bytes before the data, hex
  // The source that the file belongs to: empty for the checkpoint that is converted, otherwise the
  // option that named the other checkpoint ("scales-from"). Only shards of the checkpoint that is
  // converted may ever be freed.
  std::string checkpoint = {};
  // Whether other files hold tensors of the same names, as rank shards do.
  bool shares_names = false;
  // In the order of the file; they do not overlap.
  std::vector<CheckedBytes> checked = {};
  // The bytes that opening the checkpoint reads, such as headers; in the order of the file.
  std::vector<formats::FileRange> described_by = {};

  // For messages: shards of two checkpoints may have one name.
  std::string DisplayName() const { return checkpoint.empty() ? name : path.string(); }
};

// Where a tensor's bytes lie.
struct Extent {
  std::uint32_t file = 0;    // position in Catalog::files()
  std::uint64_t offset = 0;  // from the start of the file
  std::uint64_t length = 0;
};

struct CatalogTensor {
  std::string name;  // unique; of files with shared names FILE/NAME
  formats::Dtype dtype = formats::Dtype::kU8;
  formats::Shape shape;
  Extent extent;
};

// The tensors of a source: name → dtype, shape, place. Immutable once built, so threads may share
// it. Tensors keep the order of their files and, within one, of their data.
//
// A conversion may read a second checkpoint beside the one that it converts. The second one's files
// and tensors then follow those of the first and have positions of their own, so plan and executor
// treat all tensors alike.
class Catalog {
 public:
  // Takes the headers out of `files` (their tensor lists are empty afterwards). The files must be
  // consistent (formats::RequireConsistent).
  static Catalog FromCheckpoint(formats::CheckpointFiles& files);

  Catalog() : Catalog({}, {}) {}
  Catalog(std::vector<SourceFile> files, std::vector<CatalogTensor> tensors);

  // Adds a second checkpoint's files and tensors behind these, with SourceFile::checkpoint set to
  // `checkpoint`. Call this once at most, before threads share the catalog. Throws Error
  // (kInternal) when the catalog has a second checkpoint already.
  void Append(Catalog second, const std::string& checkpoint);

  // The files of both checkpoints.
  const std::vector<SourceFile>& files() const { return files_; }
  const std::vector<CatalogTensor>& tensors() const { return tensors_; }
  // Position in tensors() of a tensor of the checkpoint that is converted, or kNone.
  static constexpr std::uint32_t kNone = formats::NameTable::kNone;
  std::uint32_t Find(std::string_view name) const;
  // The same for a tensor of the appended checkpoint.
  std::uint32_t FindAppended(std::string_view name) const;

  // The tensor's name in its file's header.
  std::string_view NameInFile(std::uint32_t tensor) const;

  // The positions in tensors() and files() at which the checkpoint that is converted ends and the
  // appended one begins. A loop over the checkpoint that is converted ends there.
  std::uint32_t tensors_end() const { return tensors_end_; }
  std::uint32_t files_end() const { return files_end_; }

 private:
  std::vector<SourceFile> files_;
  std::vector<CatalogTensor> tensors_;
  std::uint32_t tensors_end_ = 0;
  std::uint32_t files_end_ = 0;
  formats::NameTable by_name_;
  // Positions are those in the appended checkpoint's own catalog.
  formats::NameTable appended_by_name_{0};
};

}  // namespace dsv3::convert
