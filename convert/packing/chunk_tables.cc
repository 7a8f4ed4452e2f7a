#include "convert/packing/chunk_tables.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

std::shared_ptr<const PackedChunks> Read(const PackedFileSource& source, std::size_t tensor) {
  const formats::InputFile input(source.path, source.name);
  if (input.bytes() != source.bytes || input.mtime_ns() != source.mtime_ns) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: the file changed while it was being read; wait until nothing "
                            "writes to it, then run the same command again",
                            formats::ShownPath(source.name)),
                {source.name, ""});
  }
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
