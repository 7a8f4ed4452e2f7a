#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "convert/packing/packed_file.h"

namespace dsv3::convert {

// A packed file as it was when it was opened.
struct PackedFileSource {
  PackedFile file;
  std::string name;  // for messages
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::int64_t mtime_ns = 0;
};

// The chunks of the tensors of packed files. A tensor's seek table is read when the tensor is first
// needed; tables of about `kept_bytes` are kept, so that memory does not grow with the number of
// tensors. Thread-safe.
class ChunkTables {
 public:
  explicit ChunkTables(std::size_t kept_bytes = std::size_t{1} << 20) : kept_bytes_(kept_bytes) {}

  // The chunks of the tensor at this position in source->file.tensors(). Throws Error as
  // PackedFile::ReadChunks does, and kBadInput where the file changed.
  std::shared_ptr<const PackedChunks> Of(const std::shared_ptr<const PackedFileSource>& source,
                                         std::size_t tensor);

 private:
  struct Kept {
    std::shared_ptr<const PackedFileSource> source;
    std::size_t tensor = 0;
    std::shared_ptr<const PackedChunks> chunks;
    std::size_t bytes = 0;
  };

  // Their list entry, which becomes the first one; nullptr when they are not kept.
  std::shared_ptr<const PackedChunks> Find(const PackedFileSource& source, std::size_t tensor);

  const std::size_t kept_bytes_;
  std::mutex mutex_;      // guards all below
  std::list<Kept> kept_;  // most recently used first
  std::size_t bytes_ = 0;
};

}  // namespace dsv3::convert
