// The first byte of an input says what the rest is:
//   0  the size of a content in two bytes, and the blocks of a frame that says that size
//   1  a content, to be made a frame and read
// What our own decoder takes, libzstd must give as the same content.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <zstd.h>

#include "formats/huffman_decoder.h"
#include "formats/huffman_frame.h"
#include "formats/zstd_layout.h"
#include "tests/fuzz/require.h"

namespace {

using Bytes = std::vector<std::byte>;

void RequireLibzstdAgrees(const Bytes& frame, const Bytes& content) {
  Bytes other(content.size());
  DSV3_FUZZ_REQUIRE(ZSTD_decompress(other.data(), other.size(), frame.data(), frame.size()) ==
                    content.size());
  DSV3_FUZZ_REQUIRE(other == content);
}

void Decode(std::size_t bytes, std::span<const std::byte> blocks) {
  Bytes frame(dsv3::formats::kZstdFrameHeadBytes);
  std::byte* at = frame.data();
  dsv3::formats::PutZstdFrameHead(bytes, at);
  frame.insert(frame.end(), blocks.begin(), blocks.end());
  // Of its own size, so that a step beside it is seen.
  Bytes content(bytes);
  static dsv3::formats::HuffmanFrameDecoder decoder;
  if (decoder.Decode(frame, content)) {
    RequireLibzstdAgrees(frame, content);
  }
}

void RoundTrip(std::span<const std::byte> content) {
  static dsv3::formats::HuffmanFrameEncoder encoder;
  static dsv3::formats::HuffmanFrameDecoder decoder;
  Bytes frame(ZSTD_compressBound(content.size()));
  frame.resize(encoder.Encode(content, frame));
  frame.shrink_to_fit();
  Bytes back(content.size());
  DSV3_FUZZ_REQUIRE(decoder.Decode(frame, back));
  DSV3_FUZZ_REQUIRE(back == Bytes(content.begin(), content.end()));
  RequireLibzstdAgrees(frame, back);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  if (input.empty()) return 0;
  // Long contents take time, and show no more than four short streams do.
  constexpr std::size_t kMostBytes = 600;
  if (input[0] != std::byte{0}) {
    RoundTrip(input.subspan(1, std::min(size - 1, kMostBytes)));
  } else if (size >= 3) {
    Decode(std::to_integer<std::size_t>(input[1]) | std::to_integer<std::size_t>(input[2]) << 8,
           input.subspan(3));
  }
  return 0;
}
