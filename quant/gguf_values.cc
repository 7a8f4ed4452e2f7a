#include "quant/gguf_values.h"

#include <array>
#include <cstdint>
#include <cstring>

#include "quant/codec.h"

namespace dsv3::quant {
namespace {

constexpr std::size_t kElements = 32;
constexpr std::size_t kHalf = kElements / 2;

float TakeF16(const std::byte* bytes) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, bytes, sizeof bits);
  return DecodeF16(bits);
}

// Values of 4-bit codes, of which byte j has two that are 16 elements apart.
void DecodeNibbles(const std::byte* codes, const std::array<float, 16>& values, float* out) {
  for (std::size_t j = 0; j < kHalf; ++j) {
    const auto byte = std::to_integer<std::uint8_t>(codes[j]);
    out[j] = values[byte & 0xF];
    out[j + kHalf] = values[byte >> 4];
  }
}

}  // namespace

void DecodeQ8_0(std::span<const std::byte> blocks, float* out) {
  constexpr std::size_t kBytes = 34;
  for (; blocks.size() >= kBytes; blocks = blocks.subspan(kBytes), out += kElements) {
    const float scale = TakeF16(blocks.data());
    std::array<std::int8_t, kElements> codes;
    std::memcpy(codes.data(), blocks.data() + 2, sizeof codes);
    for (std::size_t i = 0; i < kElements; ++i) out[i] = static_cast<float>(codes[i]) * scale;
  }
}

void DecodeQ4_0(std::span<const std::byte> blocks, float* out) {
  constexpr std::size_t kBytes = 18;
  std::array<float, 16> values;
  for (; blocks.size() >= kBytes; blocks = blocks.subspan(kBytes), out += kElements) {
    const float scale = TakeF16(blocks.data());
    for (std::size_t code = 0; code < values.size(); ++code) {
      values[code] = static_cast<float>(static_cast<int>(code) - 8) * scale;
    }
    DecodeNibbles(blocks.data() + 2, values, out);
  }
}

void DecodeMxfp4(std::span<const std::byte> blocks, float* out) {
  constexpr std::size_t kBytes = 17;
  std::array<float, 16> values;
  for (; blocks.size() >= kBytes; blocks = blocks.subspan(kBytes), out += kElements) {
    const float scale = DecodeE8M0(std::to_integer<std::uint8_t>(blocks[0]));
    for (std::size_t code = 0; code < values.size(); ++code) {
      values[code] = DecodeE2M1(static_cast<std::uint8_t>(code)) * scale;
    }
    DecodeNibbles(blocks.data() + 1, values, out);
  }
}

}  // namespace dsv3::quant
