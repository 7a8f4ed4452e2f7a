#include "convert/layouts/flatten.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/layouts/element_model.h"
#include "tests/convert/support/conversion.h"

namespace dsv3::convert {
namespace {

using dsv3::testing::ErrorOf;
using testing::Elements;
using testing::Make;

constexpr MatrixShape kHalf = {2, 3};

// Two tensors of 2 × 3 elements, side by side: 0 1 2 | 6 7 8 over 3 4 5 | 9 10 11.
const std::vector<Elements> kSources = {{0, 1, 2, 3, 4, 5}, {6, 7, 8, 9, 10, 11}};

ComposedTensor SideBySide() {
  return {"inner",
          {2, 6},
          {2, 6},
          {{0, kHalf, Whole(kHalf), false, 0, 0}, {1, kHalf, Whole(kHalf), false, 0, 3}}};
}

TEST(Flatten, FindsTheSourcesOfBoxes) {
  const ComposedTensor inner = SideBySide();
  // Its second row above its first, columns 2 to 4 alone.
  const ComposedTensor outer{
      "outer",
      {2, 3},
      {2, 3},
      {{0, {2, 6}, {1, 2, 2, 5}, false, 0, 0}, {0, {2, 6}, {0, 1, 2, 5}, false, 1, 0}}};
  const ComposedTensor flat = Flatten(outer, {inner});
  EXPECT_EQ(flat.name, "outer");
  EXPECT_EQ(flat.shape, outer.shape);
  EXPECT_EQ(flat.parts.size(), 4U);
  EXPECT_EQ(Make(flat, kSources), (Elements{5, 9, 10, 2, 6, 7}));
}

TEST(Flatten, LeavesOutSourcesBesideTheBox) {
  const ComposedTensor outer{"outer", {2, 2}, {2, 2}, {{0, {2, 6}, {0, 2, 4, 6}, false, 0, 0}}};
  const ComposedTensor flat = Flatten(outer, {SideBySide()});
  ASSERT_EQ(flat.parts.size(), 1U);
  EXPECT_EQ(flat.parts[0].source, 1U);
  EXPECT_EQ(Make(flat, kSources), (Elements{7, 8, 10, 11}));
}

TEST(Flatten, FollowsTransposedSources) {
  // 0 3 6 9 over 1 4 7 10 over 2 5 8 11.
  const ComposedTensor inner{
      "inner",
      {3, 4},
      {3, 4},
      {{0, kHalf, Whole(kHalf), true, 0, 0}, {1, kHalf, Whole(kHalf), true, 0, 2}}};
  const ComposedTensor outer{"outer", {2, 3}, {2, 3}, {{0, {3, 4}, {1, 3, 1, 4}, false, 0, 0}}};
  EXPECT_EQ(Make(Flatten(outer, {inner}), kSources), (Elements{4, 7, 10, 5, 8, 11}));
}

TEST(Flatten, RejectsWhatItCannotFollow) {
  const ComposedTensor outer{"outer", {2, 6}, {2, 6}, {{0, {2, 6}, {0, 2, 0, 6}, false, 0, 0}}};
  const auto refused = [&](const ComposedTensor& from, const ComposedTensor& inner) {
    const Error error = ErrorOf([&] { Flatten(from, {inner}); });
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    EXPECT_THAT(error.message(), ::testing::HasSubstr("'outer'"));
  };
  ComposedTensor inner = SideBySide();
  inner.parts.pop_back();
  refused(outer, inner);
  inner = SideBySide();
  inner.parts[1].transposed = true;
  refused(outer, inner);
  inner = SideBySide();
  inner.matrix = {3, 4};
  refused(outer, inner);
}

}  // namespace
}  // namespace dsv3::convert
