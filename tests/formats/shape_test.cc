#include "formats/shape.h"

#include <cstdint>
#include <limits>

#include <gtest/gtest.h>

namespace dsv3::formats {
namespace {

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

TEST(ShapeTest, CountsElements) {
  EXPECT_EQ(NumElements({}), 1U);
  EXPECT_EQ(NumElements({0}), 0U);
  EXPECT_EQ(NumElements({576, 7168}), 576U * 7168U);
  EXPECT_EQ(NumElements({kMax}), kMax);
}

TEST(ShapeTest, OverflowIsFoundFromLeftToRight) {
  EXPECT_EQ(NumElements({kMax, 2}), std::nullopt);
  EXPECT_EQ(NumElements({std::uint64_t{1} << 32, std::uint64_t{1} << 32}), std::nullopt);
  EXPECT_EQ(NumElements({kMax, 2, 0}), std::nullopt);
  EXPECT_EQ(NumElements({0, kMax, 2}), 0U);
}

TEST(ShapeTest, CountsBytes) {
  EXPECT_EQ(NumBytes(Dtype::kBF16, {3, 5}), 30U);
  EXPECT_EQ(NumBytes(Dtype::kF4, {4}), 2U);
  EXPECT_EQ(NumBytes(Dtype::kF6E2M3, {4}), 3U);
  EXPECT_EQ(NumBytes(Dtype::kU64, {}), 8U);
  EXPECT_EQ(NumBytes(Dtype::kF32, {7, 0}), 0U);
}

TEST(ShapeTest, PartsOfBytesAndOverflowingBitsHaveNoBytes) {
  EXPECT_EQ(NumBytes(Dtype::kF4, {3}), std::nullopt);
  EXPECT_EQ(NumBytes(Dtype::kF6E3M2, {2}), std::nullopt);
  EXPECT_EQ(NumBytes(Dtype::kU8, {kMax / 8}), kMax / 8);
  EXPECT_EQ(NumBytes(Dtype::kU8, {kMax / 8 + 1}), std::nullopt);
}

TEST(ShapeTest, PrintsAsAList) {
  EXPECT_EQ(ShapeToString({}), "[]");
  EXPECT_EQ(ShapeToString({576}), "[576]");
  EXPECT_EQ(ShapeToString({576, 7168}), "[576, 7168]");
  EXPECT_EQ(ShapeToString(Shape(16, 1)), "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]");
  EXPECT_EQ(ShapeToString(Shape(17, 1)),
            "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ... 17 dimensions]");
}

}  // namespace
}  // namespace dsv3::formats
