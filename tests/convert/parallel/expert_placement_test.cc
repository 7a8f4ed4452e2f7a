#include "convert/parallel/expert_placement.h"

#include <filesystem>
#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/parallel/eplb.h"
#include "convert/parallel/expert_load.h"
#include "convert/parallel/placement_file.h"
#include "formats/error.h"
#include "tests/convert/model/configs.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

// Five layers, of which the first one is dense, and an MTP layer; 8 experts in 4 groups.
json Config() {
  json config = testing::SmallConfig();
  config.update({{"num_hidden_layers", 5},
                 {"num_attention_heads", 8},
                 {"n_routed_experts", 8},
                 {"n_group", 4}});
  return config;
}

class ExpertPlacementTest : public ::testing::Test {
 protected:
  ExpertPlacement Place(const ParallelOptions& options, const PlacementOptions& placement = {}) {
    return PlacementOf(placement, PlanTopology(options, config_), config_).value();
  }

  PlacementOptions File(const std::string& text) {
    dsv3::testing::WriteFile(dir_.path() / "map.json", text);
    PlacementOptions options;
    options.kind = PlacementKind::kFile;
    options.file = dir_.path() / "map.json";
    return options;
  }

  PlacementOptions Load(const std::string& text, std::uint64_t nodes = 1) {
    dsv3::testing::WriteFile(dir_.path() / "load.json", text);
    PlacementOptions options;
    options.expert_load = dir_.path() / "load.json";
    options.nodes = nodes;
    return options;
  }

  // The message of a refusal.
  std::string Refusal(const PlacementOptions& placement, const ParallelOptions& options,
                      ErrorCode code = ErrorCode::kBadInput) {
    try {
      Place(options, placement);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.message();
      return error.message();
    }
    return "no error";
  }

  // A map over 8 physical experts in which every layer is the same.
  static json Maps(const std::vector<std::uint32_t>& row = {7, 6, 5, 4, 3, 2, 1, 0}) {
    return {{"physical_to_logical_map", std::vector(5, row)}};
  }
  static json Counts() {
    return {{"logical_count", std::vector(5, std::vector<int>{9, 1, 30, 2, 8, 40, 6, 13})}};
  }

  dsv3::testing::TempDir dir_;
  ModelConfig config_ = ParseModelConfig(Config().dump(), "config.json");
};

TEST_F(ExpertPlacementTest, ContiguousCountsThroughTheExperts) {
  const ExpertPlacement plain = Place({.ep = 4});
  EXPECT_EQ(plain.physical_experts(), 8U);
  EXPECT_THAT(plain.MapOf(1), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(plain.ExpertsOf(1, 0), ElementsAre(0, 1));
  EXPECT_THAT(plain.ExpertsOf(1, 3), ElementsAre(6, 7));
  EXPECT_THAT(plain.RanksOf(1, 5), ElementsAre(2));

  const ExpertPlacement redundant = Place({.ep = 4, .redundant_experts = 4});
  EXPECT_EQ(redundant.physical_experts(), 12U);
  EXPECT_THAT(redundant.MapOf(4), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));
  EXPECT_THAT(redundant.RanksOf(4, 2), ElementsAre(0, 3));
  EXPECT_THAT(redundant.RanksOf(4, 6), ElementsAre(2));
}

TEST_F(ExpertPlacementTest, RoundRobinDealsTheExpertsOut) {
  PlacementOptions options;
  options.kind = PlacementKind::kRoundRobin;
  const ExpertPlacement plain = Place({.ep = 4}, options);
  EXPECT_THAT(plain.MapOf(1), ElementsAre(0, 4, 1, 5, 2, 6, 3, 7));
  for (std::uint64_t rank = 0; rank < 4; ++rank) {
    EXPECT_THAT(plain.ExpertsOf(2, rank), ElementsAre(rank, rank + 4));
  }
  const ExpertPlacement redundant = Place({.ep = 4, .redundant_experts = 4}, options);
  EXPECT_THAT(redundant.MapOf(1), ElementsAre(0, 4, 0, 1, 5, 1, 2, 6, 2, 3, 7, 3));
  EXPECT_THAT(redundant.MapOf(0), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3))
      << "a dense layer";
  EXPECT_THAT(redundant.MapOf(5), ElementsAre(0, 4, 0, 1, 5, 1, 2, 6, 2, 3, 7, 3))
      << "the MTP layer";
  EXPECT_THAT(plain.RanksOf(5, 6), ElementsAre(2));
  EXPECT_THAT(plain.ExpertsOf(5, 3), ElementsAre(3, 7));
}

TEST_F(ExpertPlacementTest, TwoReplicasInOneRankCountOnce) {
  const ExpertPlacement placement =
      Place({.ep = 2, .redundant_experts = 4}, File(R"({"physical_to_logical_map": [null,
          [0,0,0,1,2,3,4,5,6,7,0,1], [0,1,2,3,4,5,0,6,7,1,2,3], [0,0,0,1,2,3,4,5,6,7,0,1],
          [7,6,7,5,4,7,3,2,1,0,7,0]]})"));
  EXPECT_THAT(placement.RanksOf(1, 0), ElementsAre(0, 1));
  EXPECT_THAT(placement.RanksOf(1, 2), ElementsAre(0));
  EXPECT_THAT(placement.RanksOf(2, 0), ElementsAre(0, 1));
  EXPECT_THAT(placement.ExpertsOf(1, 0), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(placement.ExpertsOf(1, 1), ElementsAre(0, 1, 4, 5, 6, 7));
  EXPECT_THAT(placement.ExpertsOf(4, 0), ElementsAre(4, 5, 6, 7));
}

TEST_F(ExpertPlacementTest, AFileDecidesForTheMainLayersWithExperts) {
  const ExpertPlacement placement = Place({.ep = 2}, File(Maps().dump()));
  ASSERT_THAT(placement.maps(), SizeIs(5));
  EXPECT_THAT(placement.MapOf(0), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7)) << "a dense layer";
  EXPECT_THAT(placement.MapOf(1), ElementsAre(7, 6, 5, 4, 3, 2, 1, 0));
  EXPECT_THAT(placement.MapOf(4), ElementsAre(7, 6, 5, 4, 3, 2, 1, 0));
  EXPECT_THAT(placement.MapOf(5), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7)) << "the MTP layer";
  EXPECT_THAT(placement.MapOf(6), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7)) << "another MTP layer";
  EXPECT_THAT(placement.RanksOf(1, 0), ElementsAre(1));
  EXPECT_THAT(placement.RanksOf(5, 0), ElementsAre(0));
}

TEST_F(ExpertPlacementTest, IgnoresDenseRowsAndOtherMembers) {
  json maps = Maps();
  maps["physical_to_logical_map"][0] = {99, "x", {{"y", nullptr}}};
  maps["logical_count"] = "of another tool";
  EXPECT_THAT(Place({.ep = 2}, File(maps.dump())).MapOf(0), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST_F(ExpertPlacementTest, AnExpectedLoadIsSharedByReplicas) {
  ParallelOptions parallel;
  parallel.ep = 2;
  parallel.redundant_experts = 2;
  const Topology topology = PlanTopology(parallel, config_);
  json counts = {{"logical_count", std::vector(5, std::vector<int>{8, 0, 0, 0, 0, 0, 0, 0})}};
  counts["logical_count"][3] = {1, 1, 1, 1, 1, 1, 1, 1};
  const PlacementOptions options = Load(counts.dump());
  const ExpertPlacement placement = PlacementOf(options, topology, config_).value();
  const ExpertLoad load = ExpectedLoad(options, topology, config_, placement).value();
  // Contiguous slots are 0 1 2 3 4 | 5 6 7 0 1: experts 0 and 1 have a replica in each rank.
  ASSERT_THAT(load.before.ranks, SizeIs(2));
  EXPECT_DOUBLE_EQ(load.before.ranks[0] + load.before.ranks[1], 8 * 4);
  EXPECT_DOUBLE_EQ(load.before.ranks[0], 3 * 4 + 4);
  EXPECT_DOUBLE_EQ(load.after.ranks[0] + load.after.ranks[1], 8 * 4) << "no load is lost";
  EXPECT_DOUBLE_EQ(load.before.imbalance, 1) << "by chance";
  // EPLB gives both redundant slots to expert 0, whose three replicas two ranks cannot share
  // evenly.
  EXPECT_NEAR(load.after.worst_layer_imbalance, 4.0 / 3, 1e-12);
  EXPECT_NEAR(load.after.imbalance, (3 * 16.0 / 3 + 4) / 16, 1e-12);
  EXPECT_FALSE(ExpectedLoad({}, topology, config_, placement));
}

TEST_F(ExpertPlacementTest, BalancingLowersTheLargestExpectedLoad) {
  const Topology topology = PlanTopology({.ep = 4, .pp = 2}, config_);
  json counts = Counts();
  counts["logical_count"][4] = {0, 0, 0, 0, 0, 0, 0, 0};
  const PlacementOptions options = Load(counts.dump());
  const ExpertPlacement placement = PlacementOf(options, topology, config_).value();
  const ExpertLoad load = ExpectedLoad(options, topology, config_, placement).value();
  ASSERT_THAT(load.before.ranks, SizeIs(8)) << "two stages";
  // Layers 1 of the first stage; 2, 3 and 4 of the second, of which the last one has no load.
  EXPECT_DOUBLE_EQ(load.before.ranks[0], 9 + 1);
  EXPECT_DOUBLE_EQ(load.before.ranks[2], 8 + 40);
  EXPECT_DOUBLE_EQ(load.before.ranks[4 + 3], 2 * (6 + 13));
  EXPECT_DOUBLE_EQ(load.before.imbalance, 48 / (109 / 4.0));
  EXPECT_DOUBLE_EQ(load.before.worst_layer_imbalance, 48 / (109 / 4.0));
  EXPECT_EQ(load.before.worst_layer, 1U);
  EXPECT_LT(load.after.imbalance, load.before.imbalance);
  EXPECT_LT(load.after.mean_layer_imbalance, load.before.mean_layer_imbalance);
}

TEST_F(ExpertPlacementTest, WritesTheFormThatItReads) {
  json maps = Maps();
  maps["physical_to_logical_map"][3] = {0, 2, 4, 6, 1, 3, 5, 7};
  const ExpertPlacement placement = Place({.ep = 4}, File(maps.dump()));
  const std::string text = ExpertLocationText(placement);
  maps["physical_to_logical_map"][0] = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(json::parse(text), maps);
  EXPECT_EQ(text,
            "{\"physical_to_logical_map\":[\n[0,1,2,3,4,5,6,7],\n[7,6,5,4,3,2,1,0],\n"
            "[7,6,5,4,3,2,1,0],\n[0,2,4,6,1,3,5,7],\n[7,6,5,4,3,2,1,0]\n]}\n");
  EXPECT_EQ(Place({.ep = 4}, File(text)).maps(), placement.maps());
}

TEST_F(ExpertPlacementTest, ALoadIsBalancedWithTheGroupsOfTheModel) {
  json counts = Counts();
  counts["logical_count"][2] = {0.5, 1e3, 3, 0, 7.25, 11, 2, 6};
  const ExpertPlacement placement =
      Place({.ep = 4, .redundant_experts = 4}, Load(counts.dump(), 2));
  const EplbSizes sizes{.replicas = 12, .groups = 4, .nodes = 2, .gpus = 4};
  const std::vector<double> first = {9, 1, 30, 2, 8, 40, 6, 13};
  const std::vector<double> second = {0.5, 1e3, 3, 0, 7.25, 11, 2, 6};
  EXPECT_THAT(placement.MapOf(1), ElementsAreArray(Rebalance(first, sizes).physical_to_logical));
  EXPECT_THAT(placement.MapOf(2), ElementsAreArray(Rebalance(second, sizes).physical_to_logical));
  EXPECT_THAT(placement.MapOf(0), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));
  EXPECT_THAT(placement.MapOf(5), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));
  const EplbSizes other{.replicas = 12, .groups = 1, .nodes = 1, .gpus = 4};
  EXPECT_THAT(placement.MapOf(1),
              Not(ElementsAreArray(Rebalance(first, other).physical_to_logical)));
}

TEST_F(ExpertPlacementTest, AModelWithoutExpertsHasNoPlacement) {
  json dense = Config();
  dense["n_routed_experts"] = 0;
  config_ = ParseModelConfig(dense.dump(), "config.json");
  const Topology topology = PlanTopology({.tp = 2}, config_);
  EXPECT_FALSE(PlacementOf({}, topology, config_));
  EXPECT_THAT(Refusal(Load("{}"), {.tp = 2}, ErrorCode::kUsage),
              HasSubstr("--expert-load places routed experts, but the model has none"));
  EXPECT_THAT(Refusal(File("{}"), {.tp = 2}, ErrorCode::kUsage),
              HasSubstr("--ep-placement places routed experts, but the model has none"));
}

TEST_F(ExpertPlacementTest, RefusesOptionsThatContradict) {
  PlacementOptions both = Load(Counts().dump());
  both.kind = PlacementKind::kRoundRobin;
  EXPECT_THAT(Refusal(both, {.ep = 4}, ErrorCode::kUsage),
              AllOf(HasSubstr("--expert-load"), HasSubstr("--ep-placement")));
  PlacementOptions nodes;
  nodes.nodes = 2;
  EXPECT_THAT(Refusal(nodes, {.ep = 4}, ErrorCode::kUsage),
              HasSubstr("--nodes 2 is for balancing a load; give --expert-load FILE"));
  for (const std::uint64_t count : {std::uint64_t{0}, std::uint64_t{3}, ~std::uint64_t{0}}) {
    EXPECT_THAT(Refusal(Load(Counts().dump(), count), {.ep = 4}, ErrorCode::kUsage),
                HasSubstr("does not divide the 4 expert parallel ranks"));
  }
}

TEST_F(ExpertPlacementTest, RefusesGroupsThatDoNotDivideTheExperts) {
  config_.n_group = 3;
  EXPECT_THAT(Refusal(Load(Counts().dump()), {.ep = 4}),
              HasSubstr("config.json: n_group 3 does not divide the 8 routed experts"));
  EXPECT_EQ(Refusal({}, {.ep = 4}), "no error") << "only a balance needs them";
}

TEST_F(ExpertPlacementTest, RefusesMapsThatMissRepeatOrInventExperts) {
  const auto refusal = [&](std::size_t slot, const json& value) {
    json maps = Maps();
    maps["physical_to_logical_map"][2][slot] = value;
    return Refusal(File(maps.dump()), {.ep = 4});
  };
  EXPECT_THAT(refusal(7, 7),
              AllOf(HasSubstr("map.json: layer 2 has no slot for expert 0, but 2 for expert 7"),
                    HasSubstr("give every expert a slot")));
  EXPECT_THAT(refusal(3, 8),
              HasSubstr("map.json: layer 2, slot 3 is '8', which is not an expert from 0 to 7"));
  EXPECT_THAT(refusal(3, -1), HasSubstr("layer 2, slot 3 is '-1', which is not an expert"));
  EXPECT_THAT(refusal(3, 1.0), HasSubstr("layer 2, slot 3 is '1.0', which is not"));
  EXPECT_THAT(refusal(3, 4294967296), HasSubstr("slot 3 is '4294967296', which is not"));
  EXPECT_THAT(refusal(3, "4"), HasSubstr("slot 3 is '\"4\"', which is not"));
  EXPECT_THAT(refusal(3, json::array({4})), HasSubstr("slot 3 is '[4]', which is not"));
  EXPECT_THAT(refusal(3, nullptr), HasSubstr("slot 3 is 'null', which is not"));
}

TEST_F(ExpertPlacementTest, RefusesMapsOfAnotherSize) {
  json few = Maps();
  few["physical_to_logical_map"].erase(4);
  EXPECT_THAT(Refusal(File(few.dump()), {.ep = 4}),
              AllOf(HasSubstr("ends after 4 of 5 layers, so there is no row for layer 4"),
                    HasSubstr("a row of 8 numbers for each of the 5 main layers")));
  json many = Maps();
  many["physical_to_logical_map"].push_back({0, 1, 2, 3, 4, 5, 6, 7});
  EXPECT_THAT(Refusal(File(many.dump()), {.ep = 4}),
              HasSubstr("has more rows than the model has layers, 5"));
  json short_row = Maps();
  short_row["physical_to_logical_map"][3].erase(7);
  EXPECT_THAT(Refusal(File(short_row.dump()), {.ep = 4}),
              HasSubstr("layer 3 has 7 numbers, expected 8"));
  json long_row = Maps();
  long_row["physical_to_logical_map"][3].push_back(0);
  EXPECT_THAT(Refusal(File(long_row.dump()), {.ep = 4}),
              HasSubstr("layer 3 has more than 8 numbers"));
  EXPECT_THAT(Refusal(File(Maps().dump()), {.ep = 4, .redundant_experts = 4}),
              HasSubstr("layer 1 has 8 numbers, expected 12"))
      << "a map without the redundant experts";
}

TEST_F(ExpertPlacementTest, RefusesWhatIsNoMap) {
  const auto refusal = [&](const std::string& text) { return Refusal(File(text), {.ep = 4}); };
  EXPECT_THAT(refusal(""), HasSubstr("map.json"));
  EXPECT_THAT(refusal("[1]"), HasSubstr("map.json: holds no JSON object"));
  EXPECT_THAT(refusal("{}"), HasSubstr("map.json: there is no 'physical_to_logical_map'"));
  EXPECT_THAT(refusal(R"({"logical_count": []})"), HasSubstr("no 'physical_to_logical_map'"));
  EXPECT_THAT(refusal(R"({"physical_to_logical_map": 3})"),
              HasSubstr("'physical_to_logical_map' is not an array"));
  EXPECT_THAT(refusal(R"({"physical_to_logical_map": [0, 1]})"),
              HasSubstr("the row of layer 1 is not an array"));
  EXPECT_THAT(refusal(Maps().dump() + "x"), HasSubstr("map.json"));
  EXPECT_THAT(refusal("{\"physical_to_logical_map\": [[0,"), HasSubstr("map.json"));
  std::string twice = Maps().dump();
  twice.insert(1, R"("physical_to_logical_map": [[],[7,6,5,4,3,2,1,0],[7,6,5,4,3,2,1,0],)"
                  R"([7,6,5,4,3,2,1,0],[7,6,5,4,3,2,1,0]],)");
  EXPECT_THAT(refusal(twice), HasSubstr("'physical_to_logical_map' appears twice"));
  EXPECT_THAT(refusal("version https://git-lfs.github.com/spec/v1\n"), HasSubstr("git-lfs"));
}

TEST_F(ExpertPlacementTest, RefusesAFileThatIsTooLargeOrMissing) {
  PlacementOptions options = File("{}");
  std::filesystem::resize_file(options.file, kMaxPlacementBytes + 1);
  EXPECT_THAT(Refusal(options, {.ep = 4}),
              HasSubstr("map.json: the file has 67.1 MB (67,108,865 bytes)"));
  options.file = dir_.path() / "none.json";
  EXPECT_THAT(Refusal(options, {.ep = 4}), HasSubstr("none.json: there is no such file"));
}

TEST_F(ExpertPlacementTest, RefusesWrongLoads) {
  const auto refusal = [&](const std::string& value) {
    std::string text = Counts().dump();
    const std::string row = "[9,1,30,2,8,40,6,13]";
    const std::size_t at = text.find(row, text.find(row) + 1);  // that of layer 1
    text.replace(at, row.size(), "[9,1," + value + ",2,8,40,6,13]");
    return Refusal(Load(text), {.ep = 4});
  };
  EXPECT_EQ(refusal("0"), "no error");
  EXPECT_EQ(refusal("3.5e2"), "no error");
  EXPECT_EQ(refusal("1e30"), "no error");
  EXPECT_THAT(refusal("-1"), HasSubstr("load.json: layer 1, expert 2 is '-1', which is not a "
                                       "number from 0 to 1e30"));
  EXPECT_THAT(refusal("1e31"), HasSubstr("layer 1, expert 2 is '1e31', which is not"));
  EXPECT_THAT(refusal("\"1\""), HasSubstr("layer 1, expert 2 is '\"1\"', which is not"));
  EXPECT_THAT(refusal("1e999"), HasSubstr("load.json"));
  EXPECT_THAT(refusal("NaN"), HasSubstr("load.json"));
  EXPECT_THAT(refusal("1,2"), HasSubstr("layer 1 has more than 8 numbers"));
  json few = Counts();
  few["logical_count"].erase(4);
  EXPECT_THAT(Refusal(Load(few.dump()), {.ep = 4}), HasSubstr("no row for layer 4"));
  EXPECT_THAT(Refusal(Load(Maps().dump()), {.ep = 4}), HasSubstr("there is no 'logical_count'"));
}

}  // namespace
}  // namespace dsv3::convert
