#include "convert/packing/chunk_tables.h"

#include <algorithm>
#include <utility>

#include "formats/io/input_file.h"
#include "formats/io/unchanged_file.h"

namespace dsv3::convert {
namespace {

// An executor writes at most so many files side by side, and reads the tables of these.
constexpr std::size_t kMostOpen = 16;

std::size_t BytesOf(const PackedChunks& chunks) {
  return sizeof chunks + chunks.chunks.capacity() * sizeof(PackedChunk) +
         chunks.frames.capacity() * sizeof(formats::SeekEntry);
}

}  // namespace

std::shared_ptr<const PackedChunks> ChunkTables::Find(const PackedFileSource& source,
                                                      const PackedStream& stream) {
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& each) {
    return each.source.get() == &source && each.stream_offset == stream.offset;
  });
  if (found == kept_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found);
  return found->chunks;
}

std::shared_ptr<const formats::InputFile> ChunkTables::InputOf(
    const std::shared_ptr<const PackedFileSource>& source) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(open_.begin(), open_.end(),
                                    [&](const Open& each) { return each.source == source; });
    if (found != open_.end()) {
      open_.splice(open_.begin(), open_, found);
      return found->input;
    }
  }
  auto input = std::make_shared<const formats::InputFile>(source->path, source->name);
  formats::RequireUnchanged(*input, source->bytes, source->mtime_ns, "");
  const std::lock_guard lock(mutex_);
  open_.push_front({source, input});
  if (open_.size() > kMostOpen) open_.pop_back();
  return input;
}

std::shared_ptr<const PackedChunks> ChunkTables::Of(
    const std::shared_ptr<const PackedFileSource>& source, const PackedStream& stream) {
  {
    const std::lock_guard lock(mutex_);
    if (auto kept = Find(*source, stream)) return kept;
  }
  auto chunks = std::make_shared<const PackedChunks>(ReadPackedChunks(*InputOf(source), stream));
  const std::lock_guard lock(mutex_);
  if (auto kept = Find(*source, stream)) return kept;
  const std::size_t bytes = BytesOf(*chunks);
  kept_.push_front({source, stream.offset, chunks, bytes});
  bytes_ += bytes;
  while (bytes_ > kept_bytes_ && kept_.size() > 1) {
    bytes_ -= kept_.back().bytes;
    kept_.pop_back();
  }
  return chunks;
}

}  // namespace dsv3::convert
