#include "convert/layouts/megatron_ranks.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/layouts/rank_model.h"

namespace dsv3::convert {
namespace {

using testing::Elements;
using testing::Has;
using ::testing::HasSubstr;
using testing::RankModel;
using testing::RopeConfig;

nlohmann::json Json(std::uint64_t layers) {
  nlohmann::json json = RopeConfig();
  json["q_lora_rank"] = 6;
  json["num_hidden_layers"] = layers;
  return json;
}

// Tensor 2, pipeline 2, expert 2; expert tensor 1.
RankModel Saved(bool all = false) {
  RankModel ranks(Json(2), {2, 2, 1, 2, 1}, {1, 1});
  ranks.Save(all);
  return ranks;
}

TEST(MegatronRanks, AreReadAsOneModel) {
  Saved(false).ExpectReads();
  const RankModel all = Saved(true);
  all.ExpectReads();
  EXPECT_EQ(all.ranks.size(), 8U);
}

TEST(MegatronRanks, CutExpertsForTensorRanksOfTheirOwn) {
  RankModel ranks(Json(2), {2, 1, 1, 2, 2}, {2});
  ranks.Save(true);
  ranks.ExpectReads();
}

TEST(MegatronRanks, MayHoldTheDownProjectionsWhole) {
  RankModel ranks(Json(2), {2, 1, 1, 1, 1}, {2});
  ranks.down_is_cut = false;
  ranks.Save(true);
  ranks.ExpectReads();
}

TEST(MegatronRanks, MayHaveTheDownProjectionsFused) {
  for (const bool cut : {false, true}) {
    RankModel ranks(Json(2), {2, 1, 1, 1, 1}, {2});
    ranks.down_is_cut = cut;
    ranks.Save(true, {"live", "live-mtp", "fused-down"});
    ranks.ExpectReads();
  }
}

TEST(MegatronRanks, MayHaveATensorForEachExpertsModule) {
  RankModel ranks(Json(2), {1, 1, 1, 4, 1}, {2});
  ranks.Save(true, {"sequential", "local"});
  ranks.ExpectReads();
}

TEST(MegatronRanks, CountLayersWithinUnevenStages) {
  RankModel ranks(Json(4), {1, 3, 1, 1, 1}, {1, 2, 1});
  ranks.Save(true);
  ranks.ExpectReads();
}

TEST(MegatronRanks, CountLayersWithinVirtualStages) {
  RankModel ranks(Json(4), {1, 2, 2, 1, 1}, {1, 1});
  ranks.Save(true);
  ranks.ExpectReads();
}

TEST(MegatronRanks, CountLayersWithinUnevenVirtualStages) {
  RankModel ranks(Json(4), {1, 2, 2, 1, 1}, {1, 1});
  ranks.Save(true);
  // The layers 2 and 3 lie together in the second chunk of the first rank; the last has none.
  for (std::size_t i = 0; i < ranks.ranks[3].tensors.size();) {
    StackTensor& tensor = ranks.ranks[3].tensors[i];
    if (!tensor.name.starts_with("decoder.layers.0.")) {
      ++i;
      continue;
    }
    ranks.ranks[1].tensors.push_back(
        {"decoder.layers.1." + tensor.name.substr(17), std::move(tensor.shape)});
    ranks.values[1].push_back(std::move(ranks.values[3][i]));
    const auto at = static_cast<std::ptrdiff_t>(i);
    ranks.ranks[3].tensors.erase(ranks.ranks[3].tensors.begin() + at);
    ranks.values[3].erase(ranks.values[3].begin() + at);
  }
  ASSERT_EQ(ranks.ranks[1].virtual_stage, 1U);
  ranks.ExpectReads();
}

// Puts the experts of each rank into weight1 and weight2, as the modules of legacy grouped GEMM do.
void Group(RankModel& ranks) {
  const std::uint64_t experts = ranks.model.config.n_routed_experts / ranks.sizes.expert;
  for (std::size_t r = 0; r < ranks.ranks.size(); ++r) {
    std::vector<StackTensor> tensors;
    std::vector<Elements> values;
    for (std::size_t i = 0; i < ranks.ranks[r].tensors.size(); ++i) {
      const StackTensor& tensor = ranks.ranks[r].tensors[i];
      const std::size_t at = tensor.name.find(".mlp.experts.local_experts.");
      if (at == std::string::npos) {
        tensors.push_back(tensor);
        values.push_back(ranks.values[r][i]);
        continue;
      }
      const bool is_first = Has(tensor.name, "linear_fc1");
      const std::string name =
          tensor.name.substr(0, at) + ".mlp.experts.weight" + (is_first ? "1" : "2");
      auto grouped = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const StackTensor& each) { return each.name == name; });
      if (grouped == tensors.end()) {
        formats::Shape shape = {tensor.shape[1], tensor.shape[0]};
        shape[is_first ? 1 : 0] *= experts;
        tensors.push_back({name, shape});
        values.emplace_back();
        grouped = tensors.end() - 1;
      }
      Elements& elements = values[static_cast<std::size_t>(grouped - tensors.begin())];
      for (std::uint64_t col = 0; col < tensor.shape[1]; ++col) {
        for (std::uint64_t row = 0; row < tensor.shape[0]; ++row) {
          elements.push_back(ranks.values[r][i][row * tensor.shape[1] + col]);
        }
      }
    }
    ranks.ranks[r].tensors = tensors;
    ranks.values[r] = values;
  }
}

TEST(MegatronRanks, MayHoldTheExpertsOfLegacyGroupedGemm) {
  for (const std::uint64_t expert_tensor : {1U, 2U}) {
    RankModel ranks(Json(2), {2, 1, 1, 2, expert_tensor}, {2});
    ranks.Save(true, {"sequential", "local", "live-mtp"});
    Group(ranks);
    ranks.ExpectReads();
  }
}

TEST(MegatronRanks, RejectGroupedExpertsThatCannotBeParted) {
  RankModel ranks(Json(2), {1, 1, 1, 2, 1}, {2});
  ranks.Save(true, {"sequential", "local", "live-mtp"});
  Group(ranks);
  for (StackTensor& tensor : ranks.ranks[1].tensors) {
    if (Has(tensor.name, "weight2")) tensor.shape[0] += 1;
  }
  const Error error = ranks.Refused();
  EXPECT_EQ(error.place().file, "mp_rank_00_000_001");
  EXPECT_THAT(error.message(), HasSubstr("in which the 2 experts"));
}

TEST(MegatronRanks, RejectALayerBeyondTheModels) {
  RankModel ranks = Saved();
  ranks.ranks[0].tensors.push_back({"decoder.layers.18446744073709551615.x", {1}});
  EXPECT_THAT(ranks.Refused().message(), HasSubstr("predicts 2 layers in all"));
}

TEST(MegatronRanks, RejectExpertTensorRanksThatTensorRanksDoNotShowInTheNames) {
  RankModel ranks = Saved();
  ranks.sizes.expert_tensor = 4;
  EXPECT_EQ(ranks.Refused().code(), ErrorCode::kBadInput);
}

TEST(MegatronRanks, SkipWhatIsNotOfTheModel) {
  RankModel ranks = Saved();
  ranks.ranks[0].tensors.push_back({"decoder.layers.0.mlp.linear_fc1._extra_state", {7}});
  ranks.ranks[1].tensors.push_back({"decoder.layers.0.mlp.linear_fc1._extra_state", {9}});
  EXPECT_EQ(TotalOf(ranks.Read().model.skipped), 2U);
}

TEST(MegatronRanks, RejectMissingFiles) {
  RankModel ranks = Saved();
  std::erase_if(ranks.ranks, [](const MegatronRank& rank) { return rank.pipeline == 1; });
  EXPECT_THAT(ranks.Refused().message(), HasSubstr("no file is of pipeline rank 1"));

  ranks = Saved();
  std::erase_if(ranks.ranks,
                [](const MegatronRank& rank) { return rank.pipeline == 1 && rank.tensor == 1; });
  const Error error = ranks.Refused();
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("no file holds the slice of tensor parallel rank 1 of 2"));

  ranks = Saved(true);
  std::erase_if(ranks.ranks, [](const MegatronRank& rank) { return rank.expert == 1; });
  EXPECT_THAT(
      ranks.Refused().message(),
      HasSubstr("pipeline rank 0: no file holds the experts of expert parallel rank 1 of 2"));

  ranks = RankModel(Json(2), {2, 1, 1, 2, 2}, {2});
  ranks.Save(true);
  ranks.ranks.erase(ranks.ranks.begin() + 3);  // tensor 1, expert 1
  EXPECT_THAT(ranks.Refused().message(),
              HasSubstr("no file holds the slice of expert tensor parallel rank 1 of 2"));

  ranks = Saved();
  ranks.ranks.resize(1);
  EXPECT_THAT(ranks.Refused().message(), HasSubstr("which 1 file cannot be of"));
  ranks.sizes.expert_tensor = 0;
  EXPECT_EQ(ranks.Refused().code(), ErrorCode::kBadInput);
}

TEST(MegatronRanks, RejectFilesOfOtherRanks) {
  RankModel ranks = Saved();
  ranks.ranks[3].tensor = 2;
  EXPECT_EQ(ranks.Refused().place().file, "mp_rank_01_001_001");
  EXPECT_THAT(ranks.Refused().message(), HasSubstr("it is of tensor rank 2, pipeline rank 1"));
  ranks = Saved();
  ranks.ranks.push_back(ranks.ranks[0]);
  EXPECT_THAT(ranks.Refused().message(), HasSubstr("another file is of the same ranks"));
}

TEST(MegatronRanks, RejectSlicesThatDoNotFit) {
  const auto edit = [](RankModel& ranks, std::size_t rank, const char* text, formats::Shape shape) {
    for (StackTensor& tensor : ranks.ranks[rank].tensors) {
      if (Has(tensor.name, text)) tensor.shape = shape;
    }
  };
  RankModel ranks = Saved();
  edit(ranks, 1, "mlp.linear_fc2.weight", {8, 5});
  const Error error = ranks.Refused();
  EXPECT_EQ(error.place().file, "mp_rank_01_000_001");
  EXPECT_THAT(error.message(), HasSubstr("has shape [8, 5], but in mp_rank_00_000_000 it has"));

  ranks = Saved();
  edit(ranks, 0, "mlp.linear_fc1.weight", {11, 8});
  edit(ranks, 1, "mlp.linear_fc1.weight", {11, 8});
  EXPECT_THAT(ranks.Refused().message(), HasSubstr("has 11 rows, which gate and up cannot have"));

  ranks = Saved();
  ranks.ranks[2].tensors.push_back({"decoder.layers.0.mlp.experts.linear_fc2.weight2", {8, 6}});
  EXPECT_THAT(ranks.Refused().message(),
              HasSubstr("is of expert 2, but 2 expert parallel ranks have 2 of the 4 experts"));

  ranks = Saved();
  ranks.model.config.intermediate_size = 16;
  EXPECT_THAT(ranks.Refused().message(), HasSubstr("the config is of another model"));
}

}  // namespace
}  // namespace dsv3::convert
