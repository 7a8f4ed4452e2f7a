#include "convert/job/work_division.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Plan PlanOf(const std::vector<std::uint64_t>& bytes) {
  Plan plan;
  for (const std::uint64_t each : bytes) plan.files.emplace_back().bytes = each;
  return plan;
}

TEST(DivideTest, CutsEqualThingsEvenly) {
  const std::vector<std::uint64_t> bytes(8, 5);
  EXPECT_THAT(Divide(bytes, 4), ElementsAre(0, 0, 1, 1, 2, 2, 3, 3));
  EXPECT_THAT(Divide(bytes, 1), ElementsAre(0, 0, 0, 0, 0, 0, 0, 0));
}

TEST(DivideTest, BalancesBytesAndNotCounts) {
  EXPECT_THAT(Divide(std::vector<std::uint64_t>{1, 1, 1, 1, 4, 4}, 3),
              ElementsAre(0, 0, 0, 0, 1, 2));
}

TEST(DivideTest, LeavesNoShareEmptyWhereThereIsEnough) {
  EXPECT_THAT(Divide(std::vector<std::uint64_t>{100, 1, 1}, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(Divide(std::vector<std::uint64_t>{1, 1, 100}, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(Divide(std::vector<std::uint64_t>{0, 0, 0, 0}, 2), ElementsAre(0, 0, 0, 1));
  for (std::size_t things = 1; things < 12; ++things) {
    for (std::size_t shares = 1; shares <= things; ++shares) {
      std::vector<std::uint64_t> bytes(things);
      for (std::size_t i = 0; i < things; ++i) bytes[i] = (i * 7919) % 13 * (i % 3);
      const std::vector<std::size_t> share_of = Divide(bytes, shares);
      ASSERT_EQ(share_of.size(), things);
      EXPECT_TRUE(std::is_sorted(share_of.begin(), share_of.end()));
      for (std::size_t share = 0; share < shares; ++share) {
        EXPECT_NE(std::count(share_of.begin(), share_of.end(), share), 0)
            << things << " things, " << shares << " shares: " << share << " is empty";
      }
    }
  }
}

TEST(DivideTest, GivesEachThingItsOwnShareWhereThereAreMoreShares) {
  EXPECT_THAT(Divide(std::vector<std::uint64_t>{5, 5}, 2), ElementsAre(0, 1));
  EXPECT_THAT(Divide(std::vector<std::uint64_t>{}, 3), IsEmpty());
}

TEST(SharesTest, PartsHoldEachFileOnce) {
  std::vector<std::uint64_t> bytes;
  for (std::uint64_t i = 0; i < 23; ++i) bytes.push_back(1 + i % 5);
  const Plan plan = PlanOf(bytes);
  for (std::uint64_t count = 1; count < 30; ++count) {
    std::vector<std::size_t> all;
    for (std::uint64_t index = 0; index < count; ++index) {
      const std::vector<std::size_t> files = FilesOfPart(plan, BundlesOf(plan, {}), {index, count});
      EXPECT_EQ(files.empty(), index >= plan.files.size());
      all.insert(all.end(), files.begin(), files.end());
    }
    std::vector<std::size_t> expected(plan.files.size());
    std::iota(expected.begin(), expected.end(), std::size_t{0});
    EXPECT_EQ(all, expected) << count << " parts";
  }
}

TEST(SharesTest, PartsKeepBundlesTogether) {
  const Plan plan = PlanOf({1, 1, 1, 1, 1, 1});
  const FileBundles bundles = {{0, 3}, {4, 1}, {5, 2}};
  EXPECT_THAT(FilesOfPart(plan, bundles, {0, 3}), ElementsAre(0, 3));
  EXPECT_THAT(FilesOfPart(plan, bundles, {1, 3}), ElementsAre(1, 4));
  EXPECT_THAT(FilesOfPart(plan, bundles, {2, 3}), ElementsAre(2, 5));
  EXPECT_THAT(FilesOfPart(plan, bundles, {1, 2}), ElementsAre(1, 2, 4, 5));
}

TEST(SharesTest, PartsOfAnEmptyPlanAreEmpty) {
  EXPECT_THAT(FilesOfPart(Plan(), {}, {0, 2}), IsEmpty());
}

TEST(SharesTest, UnitsHoldWhatIsToBeMade) {
  const Plan plan = PlanOf({1, 1, 1, 1, 1, 1});
  const FileBundles bundles = {{0, 3}, {4, 1}, {5, 2}};
  const std::vector<std::size_t> to_make = {1, 3, 2, 5};
  EXPECT_THAT(WorkUnits(plan, bundles, to_make, 9),
              ElementsAre(ElementsAre(3), ElementsAre(1), ElementsAre(2, 5)));
  EXPECT_THAT(WorkUnits(plan, bundles, to_make, 2),
              ElementsAre(ElementsAre(1, 3), ElementsAre(2, 5)));
  EXPECT_THAT(WorkUnits(plan, bundles, {}, 4), IsEmpty());
}

}  // namespace
}  // namespace dsv3::convert
