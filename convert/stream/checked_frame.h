#pragma once

#include <cstdint>
#include <span>

#include "formats/hash/xxh3.h"
#include "formats/zstd_stream.h"

namespace dsv3::convert {

// Compresses zstd frames as formats::ZstdStreamEncoder does, and decompresses what it made on the
// way, to see that it gives its content again. One instance is used by one thread at a time.
class CheckedFrameEncoder {
 public:
  using Sink = formats::ZstdStreamEncoder::Sink;

  // Begins a frame of `content_bytes`, in place of one that was not ended.
  void Begin(std::uint64_t content_bytes);
  void Add(std::span<const std::byte> content, const Sink& sink);
  // Precondition: as many bytes were added as Begin announced. False where the frame is not one of
  // the content as it was added.
  [[nodiscard]] bool End(const Sink& sink);

 private:
  void Take(std::span<const std::byte> frame, const Sink& sink);

  formats::ZstdStreamEncoder encoder_;
  formats::ZstdFrameChecker checker_;
  bool decodes_ = true;
  // What is in the frame, and what comes out of it.
  formats::Xxh3 content_;
  formats::Xxh3 decoded_;
};

}  // namespace dsv3::convert
