#include "quant/gguf_four_bit.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "quant/codec.h"

namespace dsv3::quant {
namespace {

constexpr std::size_t kBlocks = 37;

std::vector<std::byte> RandomCodes() {
  std::mt19937 random(1);
  std::vector<std::byte> codes(kBlocks * kFourBitCodeBytes);
  for (std::byte& each : codes) each = static_cast<std::byte>(random() & 0xFF);
  return codes;
}

// Code of an element as weights hold them: the even column in the low half.
int CodeOf(const std::vector<std::byte>& codes, std::size_t element) {
  return std::to_integer<int>(codes[element / 2]) >> (element % 2 == 0 ? 0 : 4) & 15;
}

TEST(GgufFourBitTest, Q4BlocksHaveTheCodesOfTheirElements) {
  const std::vector<std::byte> codes = RandomCodes();
  std::vector<float> scales(kBlocks);
  for (std::size_t i = 0; i < kBlocks; ++i)
    scales[i] = std::ldexp(128.0F + static_cast<float>(i), static_cast<int>(i % 30) - 24);
  std::vector<std::byte> out(kBlocks * kQ4_0Bytes);
  PackQ4_0(codes, scales, out.data());
  for (std::size_t element = 0; element < kBlocks * kFourBitElements; ++element) {
    const std::byte* const block = out.data() + element / kFourBitElements * kQ4_0Bytes;
    // ggml: value j is d * ((byte j & 15) - 8), value j + 16 is d * ((byte j >> 4) - 8).
    const std::size_t j = element % kFourBitElements;
    const int byte = std::to_integer<int>(block[2 + j % 16]);
    const int code = j < 16 ? byte & 15 : byte >> 4;
    const int bits = std::to_integer<int>(block[0]) | std::to_integer<int>(block[1]) << 8;
    ASSERT_EQ(code, CodeOf(codes, element)) << element;
    ASSERT_EQ(DecodeF16(static_cast<std::uint16_t>(bits)), scales[element / kFourBitElements]);
  }
}

TEST(GgufFourBitTest, Mxfp4BlocksHaveTheCodesAndTheScaleByte) {
  const std::vector<std::byte> codes = RandomCodes();
  std::vector<std::byte> scales(kBlocks);
  for (std::size_t i = 0; i < kBlocks; ++i) scales[i] = static_cast<std::byte>(100 + i);
  std::vector<std::byte> out(kBlocks * kMxfp4Bytes);
  PackMxfp4(codes, scales, out.data());
  for (std::size_t element = 0; element < kBlocks * kFourBitElements; ++element) {
    const std::byte* const block = out.data() + element / kFourBitElements * kMxfp4Bytes;
    const std::size_t j = element % kFourBitElements;
    const int byte = std::to_integer<int>(block[1 + j % 16]);
    ASSERT_EQ(j < 16 ? byte & 15 : byte >> 4, CodeOf(codes, element)) << element;
    ASSERT_EQ(block[0], scales[element / kFourBitElements]);
  }
}

TEST(GgufFourBitTest, KnowsScalesThatAreHalves) {
  EXPECT_TRUE(HasExactF16(1.0F));
  EXPECT_TRUE(HasExactF16(65504.0F));
  EXPECT_FALSE(HasExactF16(65536.0F));
  EXPECT_FALSE(HasExactF16(1.0F + std::ldexp(1.0F, -11)));
  EXPECT_FALSE(HasExactF16(std::numeric_limits<float>::quiet_NaN()));
  // Each BF16 from 2^-17 to the last below 2^16; below that those whose last bits are zero.
  for (int exponent = -17; exponent < 16; ++exponent) {
    for (int mantissa = 0; mantissa < 128; ++mantissa) {
      ASSERT_TRUE(HasExactF16(std::ldexp(128.0F + static_cast<float>(mantissa), exponent - 7)));
    }
  }
  EXPECT_FALSE(HasExactF16(std::ldexp(129.0F, -18 - 7)));
  EXPECT_TRUE(HasExactF16(std::ldexp(130.0F, -18 - 7)));
}

}  // namespace
}  // namespace dsv3::quant
