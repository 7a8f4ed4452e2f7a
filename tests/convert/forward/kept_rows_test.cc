#include "convert/forward/kept_rows.h"

#include <cstddef>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::testing {
namespace {

using convert::KeptRows;
using convert::RowBytes;
using convert::TensorRows;

RowBytes Bytes(int value) {
  RowBytes bytes;
  bytes.buffer = formats::AlignedBuffer(1);
  bytes.buffer.data()[0] = static_cast<std::byte>(value);
  bytes.inputs = {bytes.buffer.span()};
  return bytes;
}

TEST(KeptRowsTest, KeepsWhatIsReadASecondTime) {
  const TensorRows rows{3, 4, 6, 5};
  KeptRows kept;
  EXPECT_FALSE(kept.Admit(rows, 1) || kept.Admit(rows, 1)) << "before Begin";
  kept.Begin(100);
  EXPECT_FALSE(kept.Admit(rows, 1));
  EXPECT_FALSE(kept.Admit({3, 4, 5, 5}, 1)) << "other rows";
  EXPECT_EQ(kept.Find(rows), nullptr);
  EXPECT_TRUE(kept.Admit(rows, 1));
  const RowBytes& place = kept.Keep(rows, Bytes(7));
  EXPECT_EQ(kept.Find(rows), &place);
  EXPECT_EQ(place.inputs.at(0)[0], std::byte{7});
  EXPECT_EQ(kept.Find({3, 4, 5, 5}), nullptr);
}

TEST(KeptRowsTest, KeepsTheFirstOfEqualRows) {
  const TensorRows rows{3, 4, 6, 5};
  KeptRows kept;
  kept.Begin(100);
  kept.Admit(rows, 1);
  ASSERT_TRUE(kept.Admit(rows, 1));
  ASSERT_TRUE(kept.Admit(rows, 1));  // another thread reads them at the same time
  const RowBytes& first = kept.Keep(rows, Bytes(7));
  EXPECT_EQ(&kept.Keep(rows, Bytes(7)), &first);
}

TEST(KeptRowsTest, KeepsNoMoreThanItsMemory) {
  KeptRows kept;
  kept.Begin(100);
  for (std::uint32_t i = 0; i < 4; ++i) kept.Admit({i, 0, 1, 5}, 40);
  EXPECT_TRUE(kept.Admit({0, 0, 1, 5}, 40));
  EXPECT_TRUE(kept.Admit({1, 0, 1, 5}, 40));
  EXPECT_FALSE(kept.Admit({2, 0, 1, 5}, 40));
  EXPECT_TRUE(kept.Admit({3, 0, 1, 5}, 20));
}

}  // namespace
}  // namespace dsv3::testing
