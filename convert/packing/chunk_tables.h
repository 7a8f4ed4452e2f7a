#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "convert/packing/packed_file.h"
#include "formats/io/input_file.h"

namespace dsv3::convert {

// A packed file as it was when it was opened.
struct PackedFileSource {
  std::string name;  // for messages
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::int64_t mtime_ns = 0;
};

// The chunks of the tensors of packed files. A tensor's seek table is read when the tensor is first
// needed; tables of about `kept_bytes` are kept, so that memory does not grow with the number of
// tensors, and a few files stay open. Thread-safe.
class ChunkTables {
 public:
  explicit ChunkTables(std::size_t kept_bytes = std::size_t{1} << 20) : kept_bytes_(kept_bytes) {}

  // The chunks of a stream of this file. Throws Error as ReadPackedChunks does, and kBadInput where
  // the file changed before it was opened again.
  std::shared_ptr<const PackedChunks> Of(const std::shared_ptr<const PackedFileSource>& source,
                                         const PackedStream& stream);

 private:
  struct Kept {
    std::shared_ptr<const PackedFileSource> source;
    std::uint64_t stream_offset = 0;
    std::shared_ptr<const PackedChunks> chunks;
    std::size_t bytes = 0;
  };
  struct Open {
    std::shared_ptr<const PackedFileSource> source;
    std::shared_ptr<const formats::InputFile> input;
  };

  // Their list entry, which becomes the first one; nullptr when they are not kept.
  std::shared_ptr<const PackedChunks> Find(const PackedFileSource& source,
                                           const PackedStream& stream);
  // The open file, which becomes the first one of `open_`.
  std::shared_ptr<const formats::InputFile> InputOf(
      const std::shared_ptr<const PackedFileSource>& source);

  const std::size_t kept_bytes_;
  std::mutex mutex_;      // guards all below
  std::list<Kept> kept_;  // most recently used first
  std::size_t bytes_ = 0;
  std::list<Open> open_;  // most recently used first
};

}  // namespace dsv3::convert
