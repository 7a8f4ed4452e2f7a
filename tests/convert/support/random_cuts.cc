#include "tests/convert/support/random_cuts.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

namespace dsv3::testing {
namespace {

using convert::Expression;

// 0, every place where the value may be cut, and its end.
std::vector<std::uint64_t> PlacesOf(const Expression& expression) {
  std::vector<std::uint64_t> places = {0};
  while (places.back() < expression.num_bytes()) {
    const std::uint64_t begin = places.back();
    const std::uint64_t end = expression.CutAfter(begin);
    EXPECT_GT(end, begin);
    EXPECT_LE(end, expression.num_bytes());
    EXPECT_LE(end - begin, expression.LongestPiece()) << "at " << begin;
    if (end <= begin) break;
    for (const std::uint64_t inside : {begin, begin + (end - begin) / 2, end - 1}) {
      EXPECT_EQ(expression.CutAtOrBefore(inside), begin);
      EXPECT_EQ(expression.CutAfter(inside), end);
    }
    places.push_back(end);
  }
  return places;
}

// Of what is streamed.
std::uint64_t BytesRead(const Expression& expression, std::uint64_t begin, std::uint64_t end) {
  std::vector<convert::SourceRange> reads;
  expression.AppendReads(begin, end, reads);
  const std::vector<std::uint32_t> sides = expression.side_sources();
  std::uint64_t bytes = 0;
  for (const convert::SourceRange& read : reads) {
    EXPECT_LT(read.begin, read.end);
    if (std::count(sides.begin(), sides.end(), read.tensor) == 0) bytes += read.end - read.begin;
  }
  return bytes;
}

// What AsStored says of some ranges at any byte.
void ExpectStoredBytes(const MemorySource& source, const Expression& expression,
                       const std::string& expected, std::mt19937& random) {
  for (int round = 0; round < 8; ++round) {
    const std::uint64_t begin = random() % expected.size();
    const std::uint64_t end = begin + 1 + random() % (expected.size() - begin);
    const auto stored = expression.AsStored(begin, end);
    if (!stored) continue;
    const convert::ExpressionPtr tensor = convert::Copy(source.catalog(), stored->tensor);
    ASSERT_LE(stored->end, tensor->num_bytes());
    convert::EvaluationCounts counts;
    ASSERT_TRUE(source.Evaluate(*tensor, stored->begin, stored->end, counts) ==
                expected.substr(begin, end - begin))
        << begin << " to " << end;
  }
}

}  // namespace

void ExpectInAnyPieces(const MemorySource& source, const Expression& expression,
                       const std::string& expected, std::mt19937& random) {
  ASSERT_EQ(expression.num_bytes(), expected.size());
  convert::EvaluationCounts whole_counts;
  ASSERT_TRUE(source.Evaluate(expression, whole_counts) == expected);
  if (expected.empty()) return;
  ExpectStoredBytes(source, expression, expected, random);
  const std::vector<std::uint64_t> places = PlacesOf(expression);
  for (int round = 0; round < 6; ++round) {
    // All places, then fewer and fewer.
    const unsigned keep_one_of = 1U << round;
    std::string value;
    convert::EvaluationCounts counts;
    for (const std::uint64_t place : places) {
      const bool kept = keep_one_of == 1 || random() % keep_one_of == 0 || place == places.back();
      if (!kept || place == value.size()) continue;
      const std::uint64_t begin = value.size();
      EXPECT_LE(BytesRead(expression, begin, place),
                expression.input_bytes_per_output_byte() * (place - begin))
          << begin << " to " << place;
      value += source.Evaluate(expression, begin, place, counts);
    }
    ASSERT_TRUE(value == expected) << "one cut of " << keep_one_of;
    EXPECT_EQ(counts.nan_codes, whole_counts.nan_codes);
  }
}

}  // namespace dsv3::testing
