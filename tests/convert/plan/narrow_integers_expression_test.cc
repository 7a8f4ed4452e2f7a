#include "convert/plan/narrow_integers_expression.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/random_cuts.h"
#include "tests/convert/support/tiny_checkpoint.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using testing::MemorySource;
using testing::TinyCheckpoint;

TinyCheckpoint Table(const std::vector<std::int64_t>& values) {
  TinyCheckpoint checkpoint;
  std::string& bytes = checkpoint.Add("a", "table", Dtype::kI64, {values.size() / 2, 2}).bytes;
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return checkpoint;
}

TEST(NarrowIntegers, KeepsValuesInAnyPieces) {
  const std::vector<std::int64_t> values = {
      0,   -1, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min(),
      255, 7};
  const TinyCheckpoint checkpoint = Table(values);
  const MemorySource source(checkpoint);
  const ExpressionPtr narrow = NarrowIntegers(source.catalog(), source.catalog().Find("table"));
  EXPECT_EQ(narrow->dtype(), Dtype::kI32);
  EXPECT_EQ(narrow->shape(), (formats::Shape{3, 2}));
  std::string expected;
  for (const std::int64_t value : values) {
    for (int byte = 0; byte < 4; ++byte) {
      expected += static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * byte) & 0xFF);
    }
  }
  std::mt19937 random(4);
  testing::ExpectInAnyPieces(source, *narrow, expected, random);
}

TEST(NarrowIntegers, RefusesWhatDoesNotFit) {
  const TinyCheckpoint checkpoint = Table({1, 2, std::int64_t{1} << 31, 4});
  const MemorySource source(checkpoint);
  const ExpressionPtr narrow = NarrowIntegers(source.catalog(), source.catalog().Find("table"));
  EvaluationCounts counts;
  const Error error = testing::ErrorOf([&] { source.Evaluate(*narrow, 4, 16, counts); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), ::testing::HasSubstr("'table' is 2147483648 at element 2"));
}

TEST(NarrowIntegers, RefusesOtherDtypes) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("a", "table", Dtype::kI32, {2, 2});
  const MemorySource source(checkpoint);
  EXPECT_EQ(testing::ErrorOf([&] { NarrowIntegers(source.catalog(), 0); }).code(),
            ErrorCode::kInternal);
}

}  // namespace
}  // namespace dsv3::convert
