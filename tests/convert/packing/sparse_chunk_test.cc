#include "convert/packing/sparse_chunk.h"

#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

using testing::AsBytes;
using testing::RandomBytes;

// The gaps that docs/packed.md describes.
std::string GapsOf(const std::set<std::size_t>& places) {
  std::string gaps;
  std::size_t next = 0;
  for (const std::size_t place : places) {
    gaps.append((place - next) / 255, '\xFF');
    gaps += static_cast<char>((place - next) % 255);
    next = place + 1;
  }
  return gaps;
}

void ExpectRoundTrip(std::size_t elements, unsigned width, const std::set<std::size_t>& places) {
  SCOPED_TRACE(std::to_string(elements) + " of " + std::to_string(width));
  const std::string base = RandomBytes(elements * width, 1);
  std::string raw = base;
  std::string values;
  std::string base_values;
  for (const std::size_t place : places) {
    // Another byte of the element each time.
    char& byte = raw[place * width + place % width];
    byte = static_cast<char>(byte ^ 0x41);
    values += raw.substr(place * width, width);
    base_values += base.substr(place * width, width);
  }
  std::vector<std::byte> gaps(elements + elements / 255 + 1);
  std::vector<std::byte> found((elements + 1) * width);
  std::vector<std::byte> found_in_base((elements + 1) * width);
  const SparseSizes sizes = GatherChanges(AsBytes(raw), AsBytes(base), width, gaps.data(),
                                          found.data(), found_in_base.data());
  ASSERT_EQ(sizes.changed, places.size());
  gaps.resize(sizes.gap_bytes);
  EXPECT_EQ(testing::AsString(gaps), GapsOf(places));
  found.resize(places.size() * width);
  found_in_base.resize(places.size() * width);
  EXPECT_EQ(testing::AsString(found), values);
  EXPECT_EQ(testing::AsString(found_in_base), base_values);
  if (places.empty()) return;  // no chunk has no gaps

  std::vector<std::byte> gathered(places.size() * width);
  ASSERT_TRUE(GatherElements(AsBytes(base), width, gaps, places.size(), gathered.data()));
  EXPECT_EQ(gathered, found_in_base);
  EXPECT_FALSE(GatherElements(AsBytes(base), width, gaps, places.size() + 1, gathered.data()));
  EXPECT_FALSE(GatherElements(AsBytes(base), width, gaps, places.size() - 1, gathered.data()));
  std::string restored = base;
  ScatterElements(found, width, gaps, std::as_writable_bytes(std::span(restored)));
  EXPECT_EQ(restored, raw);
}

TEST(SparseChunkTest, FindsChangesAtEveryDistance) {
  for (const unsigned width : {1U, 2U, 4U, 8U}) {
    for (const std::size_t gap :
         {0U, 1U, 31U, 32U, 253U, 254U, 255U, 256U, 509U, 510U, 511U, 765U, 1000U}) {
      ExpectRoundTrip(3000, width, {gap});
      ExpectRoundTrip(3000, width, {7, 8 + gap});
      ExpectRoundTrip(3000, width, {2999 - gap, 2999});
      ExpectRoundTrip(gap + 1, width, {gap});
      ExpectRoundTrip(gap, width, {});
    }
    std::set<std::size_t> all;
    for (std::size_t i = 0; i < 700; ++i) all.insert(i);
    ExpectRoundTrip(700, width, all);
    std::set<std::size_t> some;
    const std::string choice = RandomBytes(5000, 2);
    for (std::size_t i = 0; i < choice.size(); ++i) {
      if (choice[i] % 5 == 0) some.insert(i);
    }
    ExpectRoundTrip(5000, width, some);
  }
}

TEST(SparseChunkTest, RefusesGapsThatLeaveTheChunk) {
  const std::string base(600, 'b');
  std::vector<std::byte> out(600);
  const auto finds = [&](const std::string& gaps, std::size_t changed) {
    return GatherElements(AsBytes(base), 1, AsBytes(gaps), changed, out.data());
  };
  EXPECT_TRUE(finds("\xFF\xFF\x59", 1));  // element 599
  EXPECT_FALSE(finds("\xFF\xFF\x5A", 1));
  EXPECT_FALSE(finds("\xFF\xFF\x59\x01", 2));
  EXPECT_FALSE(finds("\xFF\xFF\xFF\x01", 1));
  EXPECT_FALSE(finds("\x01\xFF", 1)) << "a gap that goes on leads nowhere";
  EXPECT_FALSE(finds("\xFF", 0));
  EXPECT_FALSE(finds("", 0));
}

}  // namespace
}  // namespace dsv3::convert
