#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace dsv3::formats {

// Writes frames of Zstandard (RFC 8878) whose blocks hold literals alone: bytes by Huffman codes,
// by one byte that repeats, or as they are, whichever is shortest. No matches are looked for.
// Blocks share a code where one of their own would not make them shorter by more than it takes to
// describe it. The bytes depend on the content alone. One instance is used by one thread at a time.
class HuffmanFrameEncoder {
 public:
  HuffmanFrameEncoder();
  ~HuffmanFrameEncoder();
  HuffmanFrameEncoder(HuffmanFrameEncoder&&) noexcept;
  HuffmanFrameEncoder& operator=(HuffmanFrameEncoder&&) noexcept;

  // Writes the frame of `content`, of up to 4 GiB, to the start of `out`, which has
  // ZstdFrameBound(content.size()) bytes at least. Returns the frame's size.
  std::size_t Encode(std::span<const std::byte> content, std::span<std::byte> out);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace dsv3::formats
