#include "cli/rank_list.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/option_table.h"

namespace dsv3::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TEST(ParseRankListTest, TakesRanksAndRangesInTheirOrder) {
  EXPECT_THAT(ParseRankList("0-7"), ElementsAre(Pair(0, 7)));
  EXPECT_THAT(ParseRankList("3,0,8-11,8"),
              ElementsAre(Pair(3, 3), Pair(0, 0), Pair(8, 11), Pair(8, 8)));
  EXPECT_THAT(ParseRankList("65535"), ElementsAre(Pair(65535, 65535)));
}

TEST(ParseRankListTest, RefusesAllElse) {
  for (const std::string text : {"", ",", "1,", ",1", "1,,2", "-", "1-", "-1", "2-1", "1-2-3",
                                 "1 - 2", "a", "65536", "+1"}) {
    EXPECT_THROW(ParseRankList(text), BadValue) << text;
  }
}

TEST(RankListTextTest, JoinsNeighboursAndStopsAtTheMost) {
  EXPECT_EQ(RankListText({}, 3), "");
  EXPECT_EQ(RankListText({5}, 3), "5");
  EXPECT_EQ(RankListText({0, 1, 2, 3, 12}, 3), "0-3, 12");
  EXPECT_EQ(RankListText({0, 2, 4}, 3), "0, 2, 4");
  EXPECT_EQ(RankListText({0, 2, 4, 6, 7}, 3), "0, 2, 4, …");
}

}  // namespace
}  // namespace dsv3::cli
