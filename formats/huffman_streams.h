#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "formats/huffman_code.h"

// The loops over all bytes of a Huffman-coded block.
namespace dsv3::formats {

// Counts the bytes of `content`, fewer than 4 GiB.
void CountBytes(std::span<const std::byte> content, ByteCounts& counts);

// What streams are made with: for each symbol its code in the highest bits and the code's length in
// the lowest byte, so that one number shifts the bits before it and is put above them. Of few
// symbols the same also for each two of them.
class StreamCodes {
 public:
  static constexpr std::size_t kMostPaired = 64;  // symbols

  // `pairs`: whether so much will be written that the pairs are worth being made.
  void Set(const HuffmanCode& code, bool pairs);
  std::uint64_t Of(std::byte symbol) const {
    return symbols_[std::to_integer<std::size_t>(symbol)];
  }
  // The codes of two symbols in a row, the second one's first; null where pairs were not made.
  const std::uint64_t* pairs() const { return has_pairs_ ? pairs_.get() : nullptr; }

 private:
  std::array<std::uint64_t, 256> symbols_{};
  std::unique_ptr<std::uint64_t[]> pairs_;  // first symbol + 256 × second; others are not set
  bool has_pairs_ = false;
};

// A stream of codes (RFC 8878, 4.2.2): the last symbol's first, then a bit that marks the end.
// Writes it to `out`, which has room for 8 bytes more than the stream. Returns its size.
// Precondition: each symbol of `content` has a code.
std::size_t EncodeStream(std::span<const std::byte> content, const StreamCodes& codes,
                         std::byte* out);

// The same as four streams, one behind the other, of a quarter of the content each (rounded up; the
// last has what is left). `buffer` is made as large as it must be. Returns the sizes. Precondition:
// the content has 16 bytes at least and is not longer than a block.
std::array<std::size_t, 4> EncodeFourStreams(std::span<const std::byte> content,
                                             const StreamCodes& codes,
                                             std::vector<std::byte>& buffer, std::byte* out);

}  // namespace dsv3::formats
