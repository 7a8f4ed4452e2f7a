#include "convert/stream/page_writer.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace dsv3::convert {
namespace {

bool IsAligned(const std::byte* address) {
  return reinterpret_cast<std::uintptr_t>(address) % PageWriter::kPageBytes == 0;
}

}  // namespace

void PageWriter::Write(std::uint64_t offset, std::span<const std::byte> data) {
  bytes_.fetch_add(data.size(), std::memory_order_relaxed);
  while (!data.empty()) {
    const std::uint64_t end = offset + data.size();
    const std::uint64_t page = formats::AlignDown(offset, kPageBytes);
    std::size_t length = data.size();
    if (page == offset && IsAligned(data.data())) {
      // The last page of the file is whole where the file ends.
      if (end != file_bytes_) {
        length = static_cast<std::size_t>(formats::AlignDown(end, kPageBytes) - offset);
      }
      if (length > 0) {
        output_.WriteAt(offset, data.first(length));
        offset += length;
        data = data.subspan(length);
        continue;
      }
      length = data.size();
    }
    length = std::min(length, static_cast<std::size_t>(page + kPageBytes - offset));
    Join(offset, data.first(length));
    offset += length;
    data = data.subspan(length);
  }
}

void PageWriter::Join(std::uint64_t offset, std::span<const std::byte> data) {
  const std::uint64_t begin = formats::AlignDown(offset, kPageBytes);
  const auto length =
      static_cast<std::size_t>(std::min<std::uint64_t>(kPageBytes, file_bytes_ - begin));
  Page complete;
  {
    const std::lock_guard lock(mutex_);
    Page& page = pages_[begin];
    if (page.bytes.size() == 0) page.bytes = formats::AlignedBuffer(kPageBytes);
    std::memcpy(page.bytes.data() + (offset - begin), data.data(), data.size());
    page.filled += data.size();
    if (page.filled != length) return;
    complete = std::move(page);
    pages_.erase(begin);
  }
  output_.WriteAt(begin, complete.bytes.span().first(length));
}

}  // namespace dsv3::convert
