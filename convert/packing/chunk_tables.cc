#include "convert/packing/chunk_tables.h"

#include <algorithm>
#include <utility>

#include "formats/io/input_file.h"
#include "formats/io/unchanged_file.h"

namespace dsv3::convert {
namespace {

std::shared_ptr<const PackedChunks> Read(const PackedFileSource& source, std::size_t tensor) {
  const formats::InputFile input(source.path, source.name);
  formats::RequireUnchanged(input, source.bytes, source.mtime_ns, "");
  return std::make_shared<const PackedChunks>(source.file.ReadChunks(input, tensor));
}

std::size_t BytesOf(const PackedChunks& chunks) {
  return sizeof chunks + chunks.chunks.capacity() * sizeof(PackedChunk) +
         chunks.frames.capacity() * sizeof(formats::SeekEntry);
}

}  // namespace

std::shared_ptr<const PackedChunks> ChunkTables::Find(const PackedFileSource& source,
                                                      std::size_t tensor) {
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& each) {
    return each.source.get() == &source && each.tensor == tensor;
  });
  if (found == kept_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found);
  return found->chunks;
}

std::shared_ptr<const PackedChunks> ChunkTables::Of(
    const std::shared_ptr<const PackedFileSource>& source, std::size_t tensor) {
  {
    const std::lock_guard lock(mutex_);
    if (auto kept = Find(*source, tensor)) return kept;
  }
  std::shared_ptr<const PackedChunks> chunks = Read(*source, tensor);
  const std::lock_guard lock(mutex_);
  if (auto kept = Find(*source, tensor)) return kept;
  const std::size_t bytes = BytesOf(*chunks);
  kept_.push_front({source, tensor, chunks, bytes});
  bytes_ += bytes;
  while (bytes_ > kept_bytes_ && kept_.size() > 1) {
    bytes_ -= kept_.back().bytes;
    kept_.pop_back();
  }
  return chunks;
}

}  // namespace dsv3::convert
