#include "quant/float_cast.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/quant/targets.h"

namespace dsv3::quant {
namespace {

class FloatCastKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, FloatCastKernel, EveryTarget(), TargetName);

template <typename Bits>
std::vector<std::uint16_t> Cast(FloatFormat format, const std::vector<Bits>& values,
                                std::size_t shift = 0) {
  std::vector<std::byte> bytes(values.size() * sizeof(Bits) + shift);
  std::ranges::copy(std::as_bytes(std::span(values)),
                    bytes.begin() + static_cast<std::ptrdiff_t>(shift));
  std::vector<std::uint16_t> out(values.size());
  CastToBF16(format, std::span(bytes).subspan(shift), out.data());
  return out;
}

// Bit patterns of floats around everything that rounding distinguishes: ties at even and odd
// results, the largest finite number, subnormals, infinities, NaNs of any payload.
std::vector<std::uint32_t> InterestingFloats() {
  std::vector<std::uint32_t> values;
  for (const std::uint32_t upper : {0x0000U, 0x0001U, 0x007FU, 0x0080U, 0x3F80U, 0x3F81U, 0x7F7FU,
                                    0x7F80U, 0x7FC0U, 0x7FFFU, 0xFF80U, 0xFFFFU, 0x8000U}) {
    for (const std::uint32_t lower : {0x0000U, 0x0001U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU}) {
      values.push_back(upper << 16 | lower);
    }
  }
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) values.push_back(static_cast<std::uint32_t>(random()));
  return values;
}

TEST_P(FloatCastKernel, RoundsF32LikeTheScalarDefinition) {
  const std::vector<std::uint32_t> values = InterestingFloats();
  std::vector<std::uint16_t> expected(values.size());
  CastToBF16Scalar(FloatFormat::kF32, std::as_bytes(std::span(values)), expected.data());
  EXPECT_EQ(Cast(FloatFormat::kF32, values), expected);
  EXPECT_EQ(Cast(FloatFormat::kF32, values, 1), expected);
}

TEST_P(FloatCastKernel, RoundsEveryF16LikeTheScalarDefinition) {
  std::vector<std::uint16_t> values(0x10000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint16_t>(i);
  std::vector<std::uint16_t> expected(values.size());
  CastToBF16Scalar(FloatFormat::kF16, std::as_bytes(std::span(values)), expected.data());
  EXPECT_EQ(Cast(FloatFormat::kF16, values), expected);
}

TEST_P(FloatCastKernel, TakesAnyNumberOfValues) {
  const std::vector<std::uint32_t> all = InterestingFloats();
  for (std::size_t count = 0; count < 40; ++count) {
    const std::vector<std::uint32_t> values(all.begin(),
                                            all.begin() + static_cast<std::ptrdiff_t>(count));
    std::vector<std::uint16_t> expected(count);
    CastToBF16Scalar(FloatFormat::kF32, std::as_bytes(std::span(values)), expected.data());
    EXPECT_EQ(Cast(FloatFormat::kF32, values), expected) << count;
  }
}

// The values are those of torch 2.13 on a CPU: torch.tensor(x).to(torch.bfloat16).
TEST(FloatCastTest, RoundsToNearestEven) {
  const std::vector<float> values = {1.0F,       1.00390625F, 1.01171875F,  1.00390637F,
                                     3.3962e38F, 1e-45F,      -2.00390625F, 65504.0F};
  std::vector<std::uint16_t> out(values.size());
  CastToBF16(FloatFormat::kF32, std::as_bytes(std::span(values)), out.data());
  EXPECT_THAT(out,
              testing::ElementsAre(0x3F80, 0x3F80, 0x3F82, 0x3F81, 0x7F80, 0x0000, 0xC000, 0x4780));
}

TEST(FloatCastTest, CopiesBF16) {
  const std::vector<std::uint16_t> values = {0x0001, 0x7F81, 0xFFFF, 0x3F80};
  EXPECT_EQ(Cast(FloatFormat::kBF16, values), values);
}

}  // namespace
}  // namespace dsv3::quant
