#include <cstddef>
#include <cstdint>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quant/dequantize.h"

namespace dsv3::quant {
namespace {

TEST(DecodeScales, ReadsEveryFormat) {
  const auto bytes = [](std::vector<std::uint8_t> values) {
    std::vector<std::byte> result;
    for (const std::uint8_t value : values) result.push_back(std::byte{value});
    return result;
  };
  std::vector<float> scales = {9.0F};
  DecodeScales(ScaleFormat::kF32, bytes({0, 0, 0x80, 0x3F, 1, 2, 3, 0xC4}), scales);
  EXPECT_THAT(scales, testing::ElementsAre(1.0F, -0x1.060402p+9F));
  DecodeScales(ScaleFormat::kBF16, bytes({0x80, 0x3F, 0x49, 0xC0}), scales);
  EXPECT_THAT(scales, testing::ElementsAre(1.0F, -3.140625F));
  DecodeScales(ScaleFormat::kE8M0, bytes({127, 0, 254}), scales);
  EXPECT_THAT(scales, testing::ElementsAre(1.0F, 0x1p-127F, 0x1p127F));
  DecodeScales(ScaleFormat::kF16, bytes({0x00, 0x3C, 0x01, 0x80}), scales);
  EXPECT_THAT(scales, testing::ElementsAre(1.0F, -0x1p-24F));
  DecodeScales(ScaleFormat::kE8M0, {}, scales);
  EXPECT_THAT(scales, testing::IsEmpty());
}

}  // namespace
}  // namespace dsv3::quant
