#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "convert/stream/chunk.h"
#include "convert/stream/file_hash.h"
#include "convert/stream/record.h"

namespace dsv3::convert {

// Writes what becomes of a planned file in a plan with `packed`: a file of another form and size.
// One thread at a time.
class PackedFileWriter {
 public:
  virtual ~PackedFileWriter() = default;

  // Takes the chunks of the planned file, in its order.
  virtual void Append(const Chunk& chunk) = 0;
  // After the last one: writes what is left.
  virtual void Finish() = 0;
  // After Finish: the size of the file.
  virtual std::uint64_t bytes() const = 0;
  // Takes its bytes as they are read back, from the first to the last one, in order. Returns what
  // its digest takes of them, for FileHash::UpdateMany. Throws Error (kVerification) where they are
  // not those that were written.
  virtual FileHash::Part TakeReadBack(std::span<const std::byte> data) = 0;
  // After the last one: makes `record`, which is that of the planned file, the written one's.
  virtual void Complete(FileRecord& record) = 0;
};

}  // namespace dsv3::convert
