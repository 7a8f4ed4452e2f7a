#include "quant/gguf_four_bit.h"

#include <cstring>

#include "quant/codec.h"

namespace dsv3::quant {
namespace {

// Elements 2k and 2k + 1 lie in byte k, and 16 more in the eight bytes behind it.
void SplitHalves(const std::byte* codes, std::byte* out) {
  constexpr std::byte kLow{0x0F};
  constexpr std::byte kHigh{0xF0};
  for (std::size_t k = 0; k < kFourBitCodeBytes / 2; ++k) {
    const std::byte first = codes[k];
    const std::byte second = codes[k + kFourBitCodeBytes / 2];
    out[2 * k] = (first & kLow) | (second << 4);
    out[2 * k + 1] = (first >> 4) | (second & kHigh);
  }
}

}  // namespace

bool HasExactF16(float scale) { return DecodeF16(EncodeF16(scale)) == scale; }

void PackQ4_0(std::span<const std::byte> codes, std::span<const float> scales, std::byte* out) {
  const std::byte* from = codes.data();
  for (const float scale : scales) {
    const std::uint16_t half = EncodeF16(scale);
    std::memcpy(out, &half, sizeof half);
    SplitHalves(from, out + sizeof half);
    from += kFourBitCodeBytes;
    out += kQ4_0Bytes;
  }
}

void PackMxfp4(std::span<const std::byte> codes, std::span<const std::byte> scales,
               std::byte* out) {
  const std::byte* from = codes.data();
  for (const std::byte scale : scales) {
    *out = scale;
    SplitHalves(from, out + 1);
    from += kFourBitCodeBytes;
    out += kMxfp4Bytes;
  }
}

}  // namespace dsv3::quant
