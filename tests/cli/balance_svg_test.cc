#include "cli/balance_svg.h"

#include <regex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "cli/svg_axis.h"
#include "tests/cli/rank_reports.h"

namespace dsv3::cli {
namespace {

using convert::ReshardReport;
using dsv3::testing::MadeUpReport;

ReshardReport Report(std::uint64_t tp, std::uint64_t ep, std::uint64_t dp,
                     std::uint64_t redundant = 0) {
  convert::Topology topology;
  topology.tp = tp;
  topology.ep = ep;
  topology.dp = dp;
  topology.redundant_experts = redundant;
  return MadeUpReport(topology);
}

// A picture is too long for a failure's message.
bool Holds(std::string_view svg, std::string_view part) {
  return svg.find(part) != std::string_view::npos;
}

std::size_t Count(std::string_view text, std::string_view part) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string_view::npos; ++at) ++count;
  return count;
}

// Whether every element is closed in its turn.
bool IsWellFormed(const std::string& xml) {
  static const std::regex kTag("<(/?)([a-z]+)[^>]*?(/?)>");
  std::vector<std::string> open;
  for (std::sregex_iterator tag(xml.begin(), xml.end(), kTag), end; tag != end; ++tag) {
    if ((*tag)[3].length() > 0) continue;
    if ((*tag)[1].length() == 0) {
      open.push_back((*tag)[2]);
    } else if (open.empty() || open.back() != (*tag)[2]) {
      return false;
    } else {
      open.pop_back();
    }
  }
  return open.empty();
}

double HeightOf(const std::string& svg) {
  return std::stod(svg.substr(svg.find(" height=\"") + 9));
}

TEST(BalanceSvgTest, IsAPictureForEveryScreenAndForScreenReaders) {
  const std::string svg = BalanceSvg(Report(2, 4, 2));
  EXPECT_TRUE(IsWellFormed(svg));
  EXPECT_TRUE(Holds(svg, "<title id=\"title\">Balance of 4 ranks</title>"));
  EXPECT_TRUE(Holds(svg, "Rank 0 loads most, 27.0 MB"));
  EXPECT_TRUE(Holds(svg, "prefers-color-scheme:dark"));
  EXPECT_FALSE(Holds(svg, "href")) << "it needs no other file";
  EXPECT_EQ(svg, BalanceSvg(Report(2, 4, 2)));
}

TEST(BalanceSvgTest, ShowsTheExpectedLoadBeforeAndAfter) {
  ReshardReport report = Report(2, 4, 2);
  const double without = HeightOf(BalanceSvg(report));
  convert::ExpertLoad load;
  load.before.ranks = {60, 20, 10, 10};
  load.before.imbalance = 2.4;
  load.after.ranks = {25, 25, 26, 24};
  load.after.imbalance = 1.04;
  report.expert_load = load;
  const std::string svg = BalanceSvg(report);
  EXPECT_TRUE(IsWellFormed(svg));
  EXPECT_GT(HeightOf(svg), without);
  EXPECT_TRUE(Holds(svg, "Expected load of the routed experts"));
  EXPECT_TRUE(Holds(svg, "contiguous: largest 2.400 × mean"));
  EXPECT_TRUE(Holds(svg, "EP rank 0: 60 before (+140.0 %), 25 after (+0.0 %)"));
}

TEST(BalanceSvgTest, StacksTheKindsOfModulesInEachBar) {
  ReshardReport report = Report(2, 4, 2);
  const std::string svg = BalanceSvg(report);
  // A bar has a segment of each kind; the legend has one more.
  for (const std::string kind :
       {"routed", "shared", "dense", "attention", "embedding", "head", "other"}) {
    EXPECT_EQ(Count(svg, "class=\"" + kind + "\""), 5u) << kind;
  }
  EXPECT_TRUE(
      Holds(svg, "<title>rank 3 (TP 1, DP 1, EP 3): 27.0 MB&#10;routed experts: 20.0 MB&#10;"));
  for (convert::RankReport& rank : report.ranks) rank.bytes_by_kind[0] = 0;
  EXPECT_EQ(Count(BalanceSvg(report), "class=\"embedding\""), 0u);
}

TEST(BalanceSvgTest, ShowsDifferencesOnlyWhereThereAreSome) {
  ReshardReport report = Report(2, 4, 2);
  EXPECT_FALSE(Holds(BalanceSvg(report), "Difference from the mean"));
  report.ranks[1].bytes += 1'000'000;
  const std::string svg = BalanceSvg(report);
  EXPECT_TRUE(Holds(svg, "Difference from the mean"));
  EXPECT_EQ(Count(svg, "class=\"over\""), 1u);
  EXPECT_EQ(Count(svg, "class=\"under\""), 3u);
  EXPECT_GT(HeightOf(svg), HeightOf(BalanceSvg(Report(2, 4, 2))));
}

TEST(BalanceSvgTest, ShowsOneRowOfExpertsOrOneForEachLayer) {
  ReshardReport report = Report(2, 2, 1, 2);
  const std::string same = BalanceSvg(report);
  EXPECT_TRUE(Holds(same, "Experts of each EP rank, the same in all 5 layers"));
  EXPECT_TRUE(Holds(same, "more than one replica"));
  EXPECT_TRUE(Holds(same, "id-dark middle\">7</text>")) << "cells are wide enough for numbers";
  std::swap(report.expert_map[2][0], report.expert_map[2][7]);
  const std::string each = BalanceSvg(report);
  EXPECT_TRUE(Holds(each, "Experts of each EP rank, layer by layer"));
  EXPECT_TRUE(Holds(each, ">layer 1</text>"));
  EXPECT_FALSE(Holds(BalanceSvg(Report(2, 2, 1)), "more than one replica"));
}

TEST(BalanceSvgTest, ModelWithoutExpertsHasNoMap) {
  ReshardReport report = Report(2, 1, 1);
  report.topology.experts = report.topology.physical_experts = 0;
  report.expert_map.clear();
  const std::string svg = BalanceSvg(report);
  EXPECT_TRUE(IsWellFormed(svg));
  EXPECT_FALSE(Holds(svg, "Experts of each"));
}

TEST(BalanceSvgTest, StaysSmallWithVeryManyRanksAndLayers) {
  ReshardReport report = Report(8, 8, 512);
  ASSERT_EQ(report.ranks.size(), 4096u);
  report.ranks[4095].bytes += 1;
  report.expert_map.assign(70'000, report.expert_map[1]);
  report.expert_map[1][0] = 3;
  const std::string svg = BalanceSvg(report);
  EXPECT_LT(svg.size(), 1'000'000u);
  EXPECT_LT(HeightOf(svg), 2000);
  EXPECT_TRUE(Holds(svg, "largest of 11"));
  EXPECT_TRUE(Holds(svg, "<title>rank 4095 (")) << "the largest of its bar";
}

TEST(SvgAxisTest, TicksAreOneTwoOrFiveTimesAPowerOfTen) {
  EXPECT_EQ(NiceTick(32.5e9, 5), 1e10);
  EXPECT_EQ(NiceTick(9e9, 5), 2e9);
  EXPECT_EQ(NiceTick(5, 5), 1);
  EXPECT_EQ(NiceTick(23, 5), 5);
  EXPECT_EQ(NiceTick(0, 5), 1);
}

TEST(SvgAxisTest, LabelsDoNotTouch) {
  EXPECT_EQ(LabelStep(40, 30), 1u);
  EXPECT_EQ(LabelStep(3.3, 30), 16u);
  EXPECT_EQ(LabelStep(0.1, 30), 320u);
}

}  // namespace
}  // namespace dsv3::cli
