#include "convert/parallel/topology.h"

#include <functional>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <tuple>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/model/configs.h"

namespace dsv3::convert {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using testing::V3Config;

constexpr std::uint64_t kHuge = 18446744073709551615U;

ModelConfig Parse(const nlohmann::json& json) { return ParseModelConfig(json.dump(), "config"); }

ModelConfig V3() { return Parse(V3Config()); }

ModelConfig V3With(const nlohmann::json& changes) {
  nlohmann::json json = V3Config();
  json.update(changes);
  return Parse(json);
}

ModelConfig Dense() { return V3With({{"n_routed_experts", 0}}); }

// The message of a refusal.
std::string Refusal(const ParallelOptions& options, const ModelConfig& config = V3()) {
  try {
    PlanTopology(options, config);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    return error.message();
  }
  return "no error";
}

TEST(PlanTopologyTest, DividesTheGroupsOfV4sHeads) {
  const ModelConfig flash = Parse(testing::V4FlashConfig());
  EXPECT_EQ(PlanTopology({.tp = 8}, flash).tp, 8U);
  EXPECT_THAT(Refusal({.tp = 16}, flash),
              AllOf(HasSubstr("--tp 16 does not divide the model's 8 groups of heads"),
                    HasSubstr("--tp 8")));
}

TEST(PlanTopologyTest, CompletesThePrefillUnitOfTheReport) {
  const Topology topology = PlanTopology({.tp = 4, .ep = 32}, V3());
  EXPECT_EQ(topology.dp, 8U);
  EXPECT_EQ(topology.pp, 1U);
  EXPECT_EQ(topology.moe_tp, 1U);
  EXPECT_EQ(topology.ranks_per_stage(), 32U);
  EXPECT_EQ(topology.world_size(), 32U);
  EXPECT_EQ(topology.dense_tp, 4U);
  EXPECT_EQ(topology.shared_expert_tp, 4U);
  EXPECT_EQ(topology.embed_tp, 4U);
  EXPECT_EQ(topology.layers, 61U);
  EXPECT_EQ(topology.experts, 256U);
  EXPECT_EQ(topology.physical_experts, 256U);
}

TEST(PlanTopologyTest, CompletesTheDecodeUnitOfTheReport) {
  const Topology topology = PlanTopology({.tp = 4, .ep = 320, .redundant_experts = 64}, V3());
  EXPECT_EQ(topology.dp, 80U);
  EXPECT_EQ(topology.world_size(), 320U);
  EXPECT_EQ(topology.physical_experts, 320U);
  EXPECT_EQ(topology.redundant_experts, 64U);
}

TEST(PlanTopologyTest, OneSizeAloneLeavesTheOtherAtOne) {
  const Topology tp = PlanTopology({.tp = 8}, V3());
  EXPECT_EQ(std::tuple(tp.ep, tp.dp, tp.moe_tp, tp.world_size()), std::tuple(1U, 1U, 8U, 8U))
      << "routed experts are cut, too";
  const Topology ep = PlanTopology({.ep = 16}, V3());
  EXPECT_EQ(std::tuple(ep.tp, ep.dp, ep.moe_tp, ep.world_size()), std::tuple(1U, 16U, 1U, 16U));
}

TEST(PlanTopologyTest, TakesGivenSizes) {
  const Topology topology = PlanTopology(
      {.tp = 8, .ep = 4, .dp = 2, .pp = 3, .dense_tp = 16, .shared_expert_tp = 2, .embed_tp = 1},
      V3());
  EXPECT_EQ(topology.dp, 2U);
  EXPECT_EQ(topology.moe_tp, 4U);
  EXPECT_EQ(topology.dense_tp, 16U);
  EXPECT_EQ(topology.shared_expert_tp, 2U);
  EXPECT_EQ(topology.embed_tp, 1U);
  EXPECT_EQ(topology.world_size(), 48U);
}

TEST(PlanTopologyTest, PresetsAreTheDeploymentsOfTheReport) {
  const Topology prefill = PlanTopology(OptionsOf(ParallelPreset::kDeepseekPrefill), V3());
  EXPECT_EQ(std::tuple(prefill.tp, prefill.dp, prefill.ep, prefill.redundant_experts),
            std::tuple(4U, 8U, 32U, 32U));
  EXPECT_EQ(prefill.physical_experts / prefill.ep, 9U);
  const Topology decode = PlanTopology(OptionsOf(ParallelPreset::kDeepseekDecode), V3());
  EXPECT_EQ(std::tuple(decode.tp, decode.dp, decode.ep, decode.redundant_experts),
            std::tuple(4U, 80U, 320U, 64U));
  for (const Topology& topology : {prefill, decode}) {
    EXPECT_EQ(topology.dense_tp, 1U);
    EXPECT_EQ(topology.shared_expert_tp, 1U);
    EXPECT_EQ(topology.embed_tp, 4U);
  }
}

TEST(TopologyTest, PlacesARankInEveryGroup) {
  const Topology topology = PlanTopology({.tp = 4, .ep = 4, .dp = 2, .pp = 3}, V3());
  ASSERT_EQ(topology.moe_tp, 2U);
  const Rank rank = topology.RankAt(2 * 8 + 7);
  EXPECT_EQ(rank.rank, 23U);
  EXPECT_EQ(rank.stage, 2U);
  EXPECT_EQ(rank.stage_rank, 7U);
  EXPECT_EQ(rank.tp_rank, 3U);
  EXPECT_EQ(rank.dp_rank, 1U);
  EXPECT_EQ(rank.ep_rank, 3U);
  EXPECT_EQ(rank.moe_tp_rank, 1U);
  const Rank early = topology.RankAt(5);
  EXPECT_EQ(std::tuple(early.stage, early.tp_rank, early.dp_rank, early.ep_rank, early.moe_tp_rank),
            std::tuple(0U, 1U, 1U, 2U, 1U));
}

TEST(TopologyTest, RanksFillEveryPlaceOnce) {
  const Topology topology =
      PlanTopology({.tp = 8, .ep = 4, .dp = 3, .pp = 2}, V3With({{"moe_intermediate_size", 1536}}));
  std::set<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>> attention, experts;
  for (std::uint64_t r = 0; r < topology.world_size(); ++r) {
    const Rank rank = topology.RankAt(r);
    EXPECT_EQ(rank.stage * topology.ranks_per_stage() + rank.stage_rank, r);
    EXPECT_LT(rank.tp_rank, topology.tp);
    EXPECT_LT(rank.dp_rank, topology.dp);
    EXPECT_LT(rank.ep_rank, topology.ep);
    EXPECT_LT(rank.moe_tp_rank, topology.moe_tp);
    attention.emplace(rank.stage, rank.tp_rank, rank.dp_rank);
    experts.emplace(rank.stage, rank.ep_rank, rank.moe_tp_rank);
  }
  EXPECT_EQ(attention.size(), topology.world_size());
  EXPECT_EQ(experts.size(), topology.world_size());
}

TEST(TopologyTest, StagesDivideTheLayersByTheFormula) {
  for (const std::uint64_t pp : {1U, 2U, 4U, 7U, 60U, 61U}) {
    const Topology topology = PlanTopology({.tp = 1, .pp = pp}, V3());
    std::uint64_t layer = 0;
    for (std::uint64_t stage = 0; stage < pp; ++stage) {
      EXPECT_EQ(topology.FirstLayerOf(stage), stage * 61 / pp);
      for (; layer < topology.FirstLayerOf(stage + 1); ++layer) {
        EXPECT_EQ(topology.StageOfLayer(layer), stage) << "layer " << layer << " of " << pp;
      }
    }
    EXPECT_EQ(layer, 61U);
    EXPECT_EQ(topology.StageOfLayer(61), pp - 1) << "the MTP layer";
    EXPECT_EQ(topology.StageOfLayer(1000), pp - 1);
  }
}

TEST(TopologyTest, PadsTheVocabularyToAMultipleOf64) {
  EXPECT_EQ(PaddedVocabulary(129280), 129280U);
  EXPECT_EQ(PaddedVocabulary(1), 64U);
  EXPECT_EQ(PaddedVocabulary(64), 64U);
  EXPECT_EQ(PaddedVocabulary(1000), 1024U);
}

TEST(PlanTopologyTest, DividesThePaddedVocabulary) {
  const ModelConfig config = V3With({{"vocab_size", 1000}});
  EXPECT_EQ(PlanTopology({.tp = 16}, config).embed_tp, 16U)
      << "1024 / 16, though 1000 / 16 is none";
  EXPECT_THAT(Refusal({.tp = 8}, V3With({{"vocab_size", 63 * 64}, {"num_attention_heads", 128}})),
              "no error");
  EXPECT_THAT(Refusal({.tp = 128}, V3With({{"vocab_size", 63 * 64}})),
              StartsWith("--embed-tp 128 (--tp unless given) does not divide the padded vocabulary "
                         "4032; the nearest sizes that fit: --tp 64"));
}

TEST(PlanTopologyTest, NeedsASize) {
  EXPECT_THAT(Refusal({}), HasSubstr("neither --tp nor --ep is given"));
  EXPECT_THAT(Refusal({.dp = 4, .pp = 2}), HasSubstr("neither --tp nor --ep is given"));
}

TEST(PlanTopologyTest, NamesWhatDoesNotDivideAndTheNearestThatDo) {
  EXPECT_EQ(Refusal({.tp = 3}),
            "--tp 3 does not divide the model's 128 attention heads; the nearest sizes that fit: "
            "--tp 4, --tp 2 or --tp 8");
  EXPECT_EQ(Refusal({.tp = 4, .ep = 30}),
            "--ep 30 does not divide the model's 256 experts; the nearest sizes that fit: --tp 4 "
            "--ep 32, --tp 4 --ep 16 or --tp 2 --ep 30 --redundant-experts 14");
  EXPECT_EQ(Refusal({.tp = 4, .ep = 320}),
            "--ep 320 is above the model's 256 experts; the nearest sizes that fit: --tp 4 --ep "
            "256, --tp 4 --ep 320 --redundant-experts 64 or --tp 4 --ep 128");
  EXPECT_THAT(Refusal({.tp = 4, .ep = 32, .redundant_experts = 30}),
              AllOf(StartsWith("--ep 32 does not divide the 286 physical experts (256 and 30 "
                               "redundant ones); "),
                    HasSubstr("--tp 4 --ep 32 --redundant-experts 32")));
  EXPECT_THAT(Refusal({.tp = 4, .ep = 32, .redundant_experts = 34}),
              HasSubstr("--tp 4 --ep 32 --redundant-experts 32"));
  EXPECT_EQ(Refusal({.tp = 4, .ep = 32, .dp = 3}),
            "--ep 32 does not divide the 12 ranks of a stage (tp 4 × dp 3); the nearest sizes that "
            "fit: --tp 4 --ep 32 --dp 8, --tp 4 --ep 16 --dp 4 or --tp 8 --ep 32 --dp 4");
  EXPECT_THAT(Refusal({.tp = 8, .ep = 12}, V3With({{"n_routed_experts", 192}})),
              AllOf(StartsWith("--ep 12 does not divide the 8 ranks of a stage (tp 8 × dp 1); "),
                    HasSubstr("--tp 4 --ep 12")));
  EXPECT_THAT(Refusal({.tp = 32}, V3With({{"moe_intermediate_size", 48}})),
              StartsWith("the 32 ranks that share a routed expert (tp 32 × dp 1 / ep 1) do not "
                         "divide its intermediate size 48; the nearest sizes that fit: "));
  EXPECT_THAT(Refusal({.tp = 8, .pp = 62}),
              StartsWith("--pp 62 is above the model's 61 layers; the nearest sizes that fit: --tp "
                         "8 --pp 61"));
}

TEST(PlanTopologyTest, JudgesTheOtherTensorParallelSizes) {
  EXPECT_THAT(Refusal({.tp = 8, .dense_tp = 3}),
              StartsWith("--dense-tp 3 does not divide the 8 ranks of a stage (tp 8 × dp 1); the "
                         "nearest sizes that fit: --tp 8 --dense-tp 4"));
  EXPECT_THAT(Refusal({.tp = 8, .dense_tp = 8}, V3With({{"intermediate_size", 18436}})),
              StartsWith("--dense-tp 8 (--tp unless given) does not divide the intermediate size "
                         "of the dense layers 18436; the nearest sizes that fit: --tp 8 "
                         "--dense-tp 4"));
  EXPECT_THAT(Refusal({.tp = 8, .shared_expert_tp = 16}),
              StartsWith("--shared-expert-tp 16 does not divide the 8 ranks of a stage"));
  EXPECT_THAT(
      Refusal({.tp = 8, .ep = 8, .shared_expert_tp = 8}, V3With({{"moe_intermediate_size", 2044}})),
      HasSubstr("does not divide the intermediate size of the shared experts 2044"));
  EXPECT_THAT(Refusal({.tp = 8, .embed_tp = 5}), HasSubstr("--embed-tp 5 does not divide the 8"));
  EXPECT_EQ(PlanTopology({.tp = 8, .ep = 8, .shared_expert_tp = 8},
                         V3With({{"moe_intermediate_size", 2044}, {"n_shared_experts", 2}}))
                .shared_expert_tp,
            8U)
      << "all shared experts are one module";
}

TEST(PlanTopologyTest, AsksNothingOfModulesThatTheModelLacks) {
  const ModelConfig all_moe = V3With({{"first_k_dense_replace", 0}, {"intermediate_size", 7}});
  EXPECT_EQ(Refusal({.tp = 8}, all_moe), "no error");
  EXPECT_THAT(
      Refusal(
          {.tp = 8},
          V3With({{"first_k_dense_replace", 0}, {"moe_layer_freq", 2}, {"intermediate_size", 7}})),
      HasSubstr("of the dense layers 7"));
  EXPECT_EQ(
      Refusal({.tp = 8, .ep = 8}, V3With({{"n_shared_experts", 0}, {"moe_intermediate_size", 7}})),
      "no error");
}

TEST(PlanTopologyTest, AModelWithoutExpertsHasNoneToShare) {
  EXPECT_THAT(Refusal({.tp = 8}, V3With({{"n_routed_experts", 0},
                                         {"first_k_dense_replace", 0},
                                         {"intermediate_size", 7}})),
              HasSubstr("of the dense layers 7"));
  EXPECT_EQ(PlanTopology({.tp = 8, .ep = 1}, Dense()).physical_experts, 0U);
  EXPECT_EQ(Refusal({.tp = 4, .ep = 2}, Dense()),
            "--ep 2 divides routed experts, but the model has none; the nearest sizes that fit: "
            "--tp 4 --ep 1, --tp 2 --ep 1 or --tp 8 --ep 1");
  EXPECT_THAT(Refusal({.tp = 4, .redundant_experts = 2}, Dense()),
              AllOf(StartsWith("--redundant-experts 2 repeats routed experts, but the model has "
                               "none; the nearest sizes that fit: --tp 4 --redundant-experts 0")));
}

TEST(PlanTopologyTest, RefusesZeros) {
  for (const auto& [option, options] : {std::pair<const char*, ParallelOptions>{"--tp", {.tp = 0}},
                                        {"--ep", {.ep = 0}},
                                        {"--dp", {.tp = 1, .dp = 0}},
                                        {"--pp", {.tp = 1, .pp = 0}},
                                        {"--dense-tp", {.tp = 1, .dense_tp = 0}},
                                        {"--shared-expert-tp", {.tp = 1, .shared_expert_tp = 0}},
                                        {"--embed-tp", {.tp = 1, .embed_tp = 0}}}) {
    EXPECT_THAT(Refusal(options), StartsWith(std::string(option) + " is 0, but"));
  }
}

TEST(PlanTopologyTest, RefusesHugeNumbersWithoutOverflow) {
  for (const auto& [option, options] :
       {std::pair<const char*, ParallelOptions>{"--tp 18446744073709551615", {.tp = kHuge}},
        {"--ep 18446744073709551615", {.tp = 4, .ep = kHuge}},
        {"tp 4 × dp 18446744073709551615 × pp 1 are more than 65536 ranks", {.tp = 4, .dp = kHuge}},
        {"tp 4 × dp 4611686018427387905 × pp 1 are more than",
         {.tp = 4, .ep = 4, .dp = 4611686018427387905U}},
        {"tp 4 × dp 1 × pp 18446744073709551615 are more than", {.tp = 4, .pp = kHuge}},
        {"--dense-tp 18446744073709551615", {.tp = 4, .dense_tp = kHuge}},
        {"--shared-expert-tp 18446744073709551615", {.tp = 4, .shared_expert_tp = kHuge}},
        {"--embed-tp 18446744073709551615", {.tp = 4, .embed_tp = kHuge}},
        {"--redundant-experts 18446744073709551615", {.tp = 4, .redundant_experts = kHuge}},
        {"--redundant-experts 18446744073709551360", {.ep = 1, .redundant_experts = kHuge - 255}},
        {"--tp 18446744073709551615",
         {.tp = kHuge, .ep = kHuge, .dp = kHuge, .pp = kHuge, .redundant_experts = kHuge}}}) {
    EXPECT_THAT(Refusal(options),
                AllOf(HasSubstr(option), HasSubstr("the nearest sizes that fit: --")));
  }
}

TEST(PlanTopologyTest, LimitsTheWorld) {
  EXPECT_EQ(PlanTopology({.tp = 128, .ep = 256, .dp = 512}, V3()).world_size(), 65'536U);
  EXPECT_EQ(Refusal({.tp = 128, .ep = 256, .dp = 1024}),
            "tp 128 × dp 1024 × pp 1 are more than 65536 ranks, the most that are planned; the "
            "nearest sizes that fit: --tp 64 --ep 256 --dp 1024, --tp 128 --ep 256 --dp 512 or "
            "--tp 32 --ep 256 --dp 1024");
  EXPECT_THAT(Refusal({.tp = 128, .ep = 256, .dp = 512, .pp = 2}),
              HasSubstr("are more than 65536 ranks"));
}

TEST(PlanTopologyTest, LimitsTheReplicasOfAnExpert) {
  EXPECT_EQ(PlanTopology({.ep = 1, .redundant_experts = 255 * 256}, V3()).physical_experts,
            65'536U);
  EXPECT_THAT(
      Refusal({.ep = 1, .redundant_experts = 255 * 256 + 1}),
      StartsWith("--redundant-experts 65281 is above 65280, 255 for each of the model's 256 "
                 "experts; the nearest sizes that fit: --ep 1 --redundant-experts 65280"));
}

TEST(PlanTopologyTest, RefusesAConfigOfImpossibleSize) {
  for (const auto& [layers, experts] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {600, 600},
           {std::uint64_t{1} << 32, 1},
           {1, std::uint64_t{1} << 32},
           {std::uint64_t{1} << 32, std::uint64_t{1} << 32}}) {
    ModelConfig config;
    config.num_hidden_layers = layers;
    config.n_routed_experts = experts;
    try {
      PlanTopology({.tp = 1}, config);
      ADD_FAILURE() << layers << " layers, " << experts << " experts";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_THAT(error.message(), HasSubstr("no model of this family is that large"));
    }
  }
}

// The options that a refusal proposes.
std::vector<ParallelOptions> Proposals(const std::string& message) {
  const std::string marker = "the nearest sizes that fit:";
  std::istringstream words(message.substr(message.find(marker) + marker.size()));
  std::vector<ParallelOptions> proposals(1);
  for (std::string name, value; words >> name;) {
    if (name == "or") {
      proposals.emplace_back();
      continue;
    }
    words >> value;
    ParallelOptions& options = proposals.back();
    const std::map<std::string, std::function<void(std::uint64_t)>> setters = {
        {"--tp", [&](std::uint64_t n) { options.tp = n; }},
        {"--ep", [&](std::uint64_t n) { options.ep = n; }},
        {"--dp", [&](std::uint64_t n) { options.dp = n; }},
        {"--pp", [&](std::uint64_t n) { options.pp = n; }},
        {"--dense-tp", [&](std::uint64_t n) { options.dense_tp = n; }},
        {"--shared-expert-tp", [&](std::uint64_t n) { options.shared_expert_tp = n; }},
        {"--embed-tp", [&](std::uint64_t n) { options.embed_tp = n; }},
        {"--redundant-experts", [&](std::uint64_t n) { options.redundant_experts = n; }}};
    setters.at(name)(std::stoull(value));
    if (value.back() == ',') proposals.emplace_back();
  }
  return proposals;
}

TEST(PlanTopologyTest, EveryProposalFits) {
  const ModelConfig small = V3With({{"num_attention_heads", 12},
                                    {"n_routed_experts", 48},
                                    {"moe_intermediate_size", 96},
                                    {"intermediate_size", 360},
                                    {"vocab_size", 1000},
                                    {"num_hidden_layers", 5}});
  std::size_t refused = 0;
  for (std::uint64_t i = 0; i < 600; ++i) {
    // A fixed walk over the options; about every third is given.
    std::uint64_t bits = (i + 1) * 0x9E3779B97F4A7C15U;
    const auto draw = [&](std::uint64_t most) {
      bits ^= bits >> 29;
      bits *= 0xBF58476D1CE4E5B9U;
      return bits % most;
    };
    const auto sometimes = [&](std::uint64_t most) {
      return draw(3) == 0 ? std::optional(draw(most)) : std::nullopt;
    };
    const ParallelOptions options{.tp = draw(40),
                                  .ep = draw(80),
                                  .dp = sometimes(30),
                                  .pp = sometimes(9),
                                  .dense_tp = sometimes(20),
                                  .shared_expert_tp = sometimes(20),
                                  .embed_tp = sometimes(20),
                                  .redundant_experts = draw(3) == 0 ? draw(60) : 0};
    for (const ModelConfig& config : {small, V3(), Dense()}) {
      const std::string message = Refusal(options, config);
      if (message == "no error") continue;
      ++refused;
      const std::vector<ParallelOptions> proposals = Proposals(message);
      ASSERT_FALSE(proposals.empty()) << message;
      for (const ParallelOptions& proposal : proposals) {
        ASSERT_EQ(Refusal(proposal, config), "no error") << message;
      }
    }
  }
  EXPECT_GT(refused, 1000U);
}

}  // namespace
}  // namespace dsv3::convert
