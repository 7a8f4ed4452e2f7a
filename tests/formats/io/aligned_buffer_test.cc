#include "formats/io/aligned_buffer.h"

#include <cstdint>
#include <cstring>
#include <utility>

#include <gtest/gtest.h>

namespace dsv3::formats {
namespace {

TEST(AlignTest, RoundsToMultiples) {
  EXPECT_EQ(AlignDown(0, 4096), 0u);
  EXPECT_EQ(AlignDown(4095, 4096), 0u);
  EXPECT_EQ(AlignDown(4096, 4096), 4096u);
  EXPECT_EQ(AlignUp(0, 4096), 0u);
  EXPECT_EQ(AlignUp(1, 4096), 4096u);
  EXPECT_EQ(AlignUp(4096, 4096), 4096u);
  EXPECT_EQ(AlignUp(4097, 4096), 8192u);
}

TEST(AlignedBufferTest, IsAlignedAndWritable) {
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{4097}, std::size_t{1} << 20}) {
    const AlignedBuffer buffer(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % kDirectAlignment, 0u);
    EXPECT_EQ(buffer.span().size(), bytes);
    std::memset(buffer.data(), 1, bytes);
  }
}

TEST(AlignedBufferTest, MayBeEmpty) {
  EXPECT_EQ(AlignedBuffer().size(), 0u);
  EXPECT_TRUE(AlignedBuffer(0).span().empty());
}

TEST(AlignedBufferTest, HandsItsMemoryOver) {
  AlignedBuffer first(100);
  std::byte* const data = first.data();
  AlignedBuffer second(std::move(first));
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.size(), 100u);
  AlignedBuffer third(200);
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.size(), 100u);
}

}  // namespace
}  // namespace dsv3::formats
