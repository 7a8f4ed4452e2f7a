#include "convert/catalog/name_pattern.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

TEST(NamePatternTest, ReplacesNumbers) {
  EXPECT_EQ(NamePattern("model.layers.12.mlp.experts.255.w1.weight"),
            "model.layers.*.mlp.experts.*.w1.weight");
  EXPECT_EQ(NamePattern("lm_head"), "lm_head");
  EXPECT_EQ(NamePattern("a..7"), "a..*");
}

TEST(NamePatternTest, CountsNamesByPattern) {
  const std::vector<std::string> names = {"layers.1.b", "layers.22.b", "a", "layers.3.c"};
  const PatternCounts counts = CountPatterns(names);
  EXPECT_THAT(counts, ElementsAre(Pair("a", 1U), Pair("layers.*.b", 2U), Pair("layers.*.c", 1U)));
  EXPECT_EQ(TotalOf(counts), 4U);
  EXPECT_EQ(TotalOf({}), 0U);
}

TEST(NamePatternTest, ShowsTheMostFrequentPatternsFirst) {
  EXPECT_THAT(PatternLines({}), IsEmpty());
  EXPECT_THAT(PatternLines({{"a", 1}, {"b.*", 20}, {"c", 3}}),
              ElementsAre("20 × 'b.*'", "3 × 'c'", "1 × 'a'"));
  EXPECT_THAT(PatternLines({{"a", 1}, {"b.*", 20}, {"c", 3}, {"d", 1}}),
              ElementsAre("20 × 'b.*'", "3 × 'c'", "1 × 'a'", "and 1 more pattern"));
  EXPECT_EQ(PatternLines({{"a", 1}, {"b", 1}, {"c", 1}, {"d", 1}, {"e", 1}}).back(),
            "and 2 more patterns");
}

}  // namespace
}  // namespace dsv3::convert
