#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace dsv3::formats {

// Reads the frames that HuffmanFrameEncoder makes, faster than libzstd does: up to four symbols at
// once. One instance is used by one thread at a time.
class HuffmanFrameDecoder {
 public:
  HuffmanFrameDecoder();
  ~HuffmanFrameDecoder();
  HuffmanFrameDecoder(HuffmanFrameDecoder&&) noexcept;
  HuffmanFrameDecoder& operator=(HuffmanFrameDecoder&&) noexcept;

  // Fills `content` from `frame`, one whole frame of blocks of literals, and returns whether its
  // checksum is that of the content. Returns false for everything else: frames of another kind,
  // damaged ones, ones of another size; then the content may be overwritten in part. Nothing that
  // the frame claims is believed.
  bool Decode(std::span<const std::byte> frame, std::span<std::byte> content);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace dsv3::formats
