#include "cli/reshard_report.h"

#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/rank_balance.h"
#include "tests/cli/json_schema.h"
#include "tests/cli/rank_reports.h"
#include "tests/support/files.h"

namespace dsv3::cli {
namespace {

using convert::ConversionReport;
using convert::ReshardReport;
using convert::ReshardRequest;
using dsv3::testing::MadeUpReport;
using dsv3::testing::ReadFile;
using dsv3::testing::SchemaComplaints;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

convert::Topology Sizes(std::uint64_t tp, std::uint64_t ep, std::uint64_t dp, std::uint64_t pp = 1,
                        std::uint64_t redundant = 0) {
  convert::Topology topology;
  topology.tp = tp;
  topology.ep = ep;
  topology.dp = dp;
  topology.pp = pp;
  topology.dense_tp = topology.shared_expert_tp = topology.embed_tp = tp;
  topology.redundant_experts = redundant;
  return topology;
}

ReshardRequest Request() {
  ReshardRequest request;
  request.input = "model";
  request.output = "ranks";
  return request;
}

std::string Text(const ReshardReport& report) { return ReshardReportText(Request(), report); }

json Json(const ReshardReport& report) {
  const json rules = json::parse(
      ReadFile(std::filesystem::path(DSV3_SOURCE_DIR) / "docs/schemas/reshard-report.schema.json"));
  const json value = json::parse(ReshardReportJson(Request(), report, "dsv3-reshard"));
  EXPECT_EQ(SchemaComplaints(rules, value), "");
  return value;
}

TEST(RankBalanceTest, NamesLargestSmallestAndMean) {
  ReshardReport report = MadeUpReport(Sizes(2, 4, 2));
  report.ranks[0].bytes = 10;
  report.ranks[1].bytes = 40;
  report.ranks[2].bytes = 10;
  report.ranks[3].bytes = 20;
  const RankBalance balance = BalanceOf(report);
  EXPECT_EQ(balance.largest, 1u);
  EXPECT_EQ(balance.smallest, 0u) << "of equal ones the first";
  EXPECT_EQ(balance.total_bytes, 80u);
  EXPECT_EQ(balance.mean_bytes, 20);
  EXPECT_EQ(balance.imbalance, 2);
}

TEST(RankBalanceTest, PutsRanksThatAreAlikeTogether) {
  ReshardReport report = MadeUpReport(Sizes(4, 4, 1));
  report.ranks[2].bytes += 1;
  const std::vector<RankClass> classes = RankClasses(report);
  ASSERT_EQ(classes.size(), 2u);
  EXPECT_THAT(classes[0].ranks, ElementsAre(2));
  EXPECT_THAT(classes[1].ranks, ElementsAre(0, 1, 3));
}

TEST(RankBalanceTest, KnowsReplicasAndWhoHoldsThem) {
  ReshardReport report = MadeUpReport(Sizes(2, 2, 1, 1, 2));
  EXPECT_THAT(ExpertsOfRank(report, 1, 0), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(ExpertsOfRank(report, 1, 1), ElementsAre(0, 1, 5, 6, 7));
  EXPECT_TRUE(SameMapInAllLayers(report));
  EXPECT_EQ(ReplicasOf(report).least, 1u);
  EXPECT_EQ(ReplicasOf(report).most, 2u);
  report.expert_map[0][0] = 7;
  EXPECT_TRUE(SameMapInAllLayers(report)) << "the first layer is dense";
  // Two replicas in one rank.
  report.expert_map[2] = {3, 3, 3, 0, 1, 2, 4, 5, 6, 7};
  EXPECT_FALSE(SameMapInAllLayers(report));
  EXPECT_THAT(ExpertsOfRank(report, 2, 0), ElementsAre(0, 1, 3));
  EXPECT_EQ(ReplicasOf(report).most, 3u);
}

TEST(ReshardReportTest, TellsTheRanksAndTheirBalance) {
  ReshardReport report = MadeUpReport(Sizes(2, 4, 2));
  report.ranks[3].bytes += 540'000;
  EXPECT_EQ(Text(report),
            "Cut into 4 ranks: ranks\n"
            "  ranks       4 = TP 2 × DP 2\n"
            "  experts     8 over EP 4: 2 a rank and layer\n"
            "  expert map  EP rank 0: 0-1; EP rank 1: 2-3; …; EP rank 3: 6-7 in every layer\n"
            "  tensors     48 in all files\n"
            "  files       4 weight files, 108.0 MB; 0 side files copied\n"
            "  time        0.0 s\n"
            "  layout      ranks/layout.json\n"
            "  manifest    ranks/checkpoint.manifest.json\n"
            "  balance     largest 1.015 × mean: rank 3 loads 27.5 MB, rank 0 27.0 MB, the mean is "
            "27.1 MB\n"
            "\n"
            "  rank  TP  DP  EP  experts  parameters    bytes  to mean\n"
            "     0   0   0   0       10  26,993,000  27.0 MB   -0.5 %\n"
            "     1   1   0   1       10  26,993,000  27.0 MB   -0.5 %\n"
            "     2   0   1   2       10  26,993,000  27.0 MB   -0.5 %\n"
            "     3   1   1   3       10  26,993,000  27.5 MB   +1.5 %\n");
}

TEST(ReshardReportTest, SaysWhatDiffersFromThePlainCase) {
  ReshardReport report = MadeUpReport(Sizes(2, 1, 1, 2, 1));
  report.topology.dense_tp = 1;
  report.topology.embed_tp = 1;
  report.expert_map[3] = {8 - 1, 6, 5, 4, 3, 2, 1, 0, 0};
  report.replicated_modules = {"model.layers.0.mlp"};
  report.bf16_modules = {"a", "b", "c\n", "d"};
  report.recut_block = quant::BlockShape{64, 32};
  report.dropped = {"model.layers.6.norm.weight", "model.layers.6.norma", "model.layers.6.x.y"};
  const std::string text = Text(report);
  EXPECT_THAT(text, HasSubstr("  ranks       4 = TP 2 × DP 1 × PP 2\n"));
  EXPECT_THAT(text, HasSubstr("  layers      0-2, 3-5\n"));
  EXPECT_THAT(text, HasSubstr("  others      dense layers whole, embedding and head whole\n"));
  EXPECT_THAT(text, HasSubstr("  experts     8 + 1 redundant over EP 1: 9 a rank and layer, each "
                              "cut 2 ways\n"));
  EXPECT_THAT(text, HasSubstr("  expert map  EP rank 0: 0-7 in layer 1, others differ\n"));
  EXPECT_THAT(text, HasSubstr("  replicas    1 to 2 of an expert\n"));
  EXPECT_THAT(text, HasSubstr("  not cut     model.layers.0.mlp\n"));
  EXPECT_THAT(text, HasSubstr("  to BF16     a, b, c\\x0a, … (4 in all)\n"));
  EXPECT_THAT(text, HasSubstr("  blocks      64×32 in every FP8 weight\n"));
  EXPECT_THAT(text, HasSubstr("  left out    3 tensors of model.layers.6\n"));
  report.dropped.push_back("other");
  EXPECT_THAT(Text(report), HasSubstr("  left out    4 tensors\n"));
  report.dropped = {"model.layers.0.a.input_scale", "model.layers.0.b.input_scale"};
  EXPECT_THAT(Text(report),
              HasSubstr("  left out    2 tensors of model.layers.0, each input_scale\n"));
  EXPECT_THAT(text, HasSubstr("  balance     even: every rank loads 27.0 MB\n"));
  EXPECT_THAT(text, HasSubstr("rank  stage  TP  DP  EP  expert TP  experts"));
}

TEST(ReshardReportTest, NamesNoExpertsWhereThereAreNone) {
  ReshardReport report = MadeUpReport(Sizes(2, 1, 1));
  report.topology.experts = report.topology.physical_experts = 0;
  report.expert_map.clear();
  const std::string text = Text(report);
  EXPECT_THAT(text, Not(HasSubstr("expert")));
  EXPECT_TRUE(Json(report)["expert_map"].is_null());
}

TEST(ReshardReportTest, PartsSayWhatIsToCome) {
  ReshardReport report = MadeUpReport(Sizes(2, 2, 1));
  report.conversion.outcome = ConversionReport::Outcome::kPartDone;
  report.conversion.missing_files = 1;
  report.conversion.files.pop_back();
  const std::string ranks = Text(report);
  EXPECT_THAT(ranks, HasSubstr("  files       1 weight file, 27.0 MB; "));
  EXPECT_THAT(ranks, HasSubstr("Made a part of 2 ranks: ranks\n"));
  EXPECT_THAT(ranks, HasSubstr("  to come     1 weight file of other ranks; layout.json comes with "
                               "the last of them\n"));
  EXPECT_THAT(ranks, Not(HasSubstr("  layout  ")));
  EXPECT_THAT(ranks, Not(HasSubstr("manifest")));
  ReshardRequest request = Request();
  request.run.part = convert::RunOptions::Part{0, 2};
  EXPECT_THAT(ReshardReportText(request, report),
              HasSubstr("1 weight file of other parts, then the same command with --finish\n"));
  report.conversion.missing_files = 0;
  EXPECT_THAT(ReshardReportText(request, report),
              HasSubstr("  to come     once all parts are made, the same command with --finish "
                        "instead of --part\n"));
  EXPECT_EQ(Json(report)["outcome"], "part-done");
}

TEST(ReshardReportTest, ManyRanksAreGrouped) {
  ReshardReport report = MadeUpReport(Sizes(4, 8, 10));
  report.topology.ep = 8;
  report.conversion.outcome = ConversionReport::Outcome::kPlanned;
  report.ranks[17].bytes += 2'700'000;
  const std::string text = Text(report);
  EXPECT_THAT(text, Not(HasSubstr("model-rank-3-part")));
  EXPECT_THAT(text, HasSubstr("  files       40, 27.0 MB to 27.0 MB; --json lists them\n"));
  EXPECT_THAT(text, HasSubstr("  ranks  experts  parameters    bytes  to mean  which\n"
                              "      1        5  26,993,000  29.7 MB   +9.7 %  17\n"
                              "     39        5  26,993,000  27.0 MB   -0.2 %  0-16, 18-39\n"));
}

TEST(ReshardReportTest, ManyDifferentRanksAreCountedByPercent) {
  ReshardReport report = MadeUpReport(Sizes(4, 8, 26));
  ASSERT_EQ(report.ranks.size(), 104u);
  report.ranks.resize(101);
  for (std::size_t i = 0; i < report.ranks.size(); ++i) report.ranks[i].bytes = 1000 * (i + 1);
  const std::string text = Text(report);
  EXPECT_THAT(text, HasSubstr("  of the ranks          bytes  to mean\n"
                              "  smallest             1.0 kB  -98.0 %\n"
                              "  10 % hold at most   11.0 kB  -78.4 %\n"));
  EXPECT_THAT(text, HasSubstr("  50 % hold at most   51.0 kB   +0.0 %\n"));
  EXPECT_THAT(text, HasSubstr("  largest            101.0 kB  +98.0 %\n"));
}

TEST(ReshardReportTest, JsonHoldsEverything) {
  ReshardReport report = MadeUpReport(Sizes(2, 2, 1, 1, 2));
  report.ranks[1].bytes += 3;
  report.recut_block = quant::BlockShape{64, 32};
  report.dropped = {"x"};
  const json value = Json(report);
  EXPECT_EQ(value["command"], "reshard");
  EXPECT_EQ(value["format"], "hf-rank");
  EXPECT_EQ(value["topology"]["world_size"], 2);
  EXPECT_EQ(value["topology"]["moe_tp"], 1);
  EXPECT_EQ(value["balance"]["largest"]["rank"], 1);
  EXPECT_EQ(value["balance"]["smallest"]["bytes"], 27'000'000);
  EXPECT_EQ(value["balance"]["mean_bytes"], 27'000'001.5);
  EXPECT_EQ(value["ranks"][1]["ep_rank"], 1);
  EXPECT_EQ(value["ranks"][1]["bytes_by_kind"]["routed-experts"], 20'000'000);
  EXPECT_EQ(value["ranks"][1]["bytes_by_kind"]["embedding"], 2'000'000);
  EXPECT_EQ(value["ranks"][0]["files"], json({"model-rank-0-part-0.safetensors"}));
  EXPECT_EQ(value["expert_map"][5], json({0, 1, 2, 3, 4, 5, 6, 7, 0, 1}));
  EXPECT_EQ(value["first_moe_layer"], 1);
  EXPECT_EQ(value["recut_block"], json({64, 32}));
  EXPECT_EQ(value["dropped"], json({"x"}));
}

TEST(MergeReportTest, SaysWhetherTheOriginalIsBack) {
  convert::JobRequest request;
  request.input = "ranks";
  request.output = "model";
  convert::MergeReport report;
  report.conversion.recipe = "merge";
  EXPECT_THAT(MergeReportText(request, report),
              HasSubstr("  original    every file is the original one, byte for byte\n"));
  report.original = false;
  report.differences = {"the MTP layer is not there", "bad\tname"};
  EXPECT_THAT(MergeReportText(request, report), HasSubstr("  original    not in everything:\n"
                                                          "    the MTP layer is not there\n"
                                                          "    bad\\x09name\n"));
  const json rules = json::parse(
      ReadFile(std::filesystem::path(DSV3_SOURCE_DIR) / "docs/schemas/merge-report.schema.json"));
  const json value = json::parse(MergeReportJson(request, report, "dsv3-reshard"));
  EXPECT_EQ(SchemaComplaints(rules, value), "");
  EXPECT_EQ(value["original"], false);
  EXPECT_EQ(value["differences"].size(), 2u);
}

}  // namespace
}  // namespace dsv3::cli
