#include "convert/layouts/megatron_ranks.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/layouts/megatron_names.h"
#include "convert/layouts/write_layout.h"
#include "formats/error.h"
#include "tests/convert/layouts/element_model.h"
#include "tests/convert/support/conversion.h"

namespace dsv3::convert {
namespace {

using testing::ElementModel;
using testing::Elements;
using ::testing::HasSubstr;
using testing::Make;
using testing::RopeConfig;

bool Has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

// The rows or columns of a tensor that are given, in this order.
Elements Taken(const Elements& elements, std::uint64_t cols, const std::vector<std::uint64_t>& rows,
               std::uint64_t col_begin, std::uint64_t col_end) {
  Elements taken;
  for (const std::uint64_t row : rows) {
    for (std::uint64_t col = col_begin; col < col_end; ++col) {
      taken.push_back(elements.at(row * cols + col));
    }
  }
  return taken;
}

std::vector<std::uint64_t> Range(std::uint64_t begin, std::uint64_t end) {
  std::vector<std::uint64_t> rows;
  for (std::uint64_t row = begin; row < end; ++row) rows.push_back(row);
  return rows;
}

// A checkpoint of ranks, as Megatron-Core's ranks hold the model.
struct RankModel {
  ElementModel model;
  MegatronSizes sizes;
  std::vector<std::uint64_t> stage_layers;  // of each pipeline rank
  bool down_is_cut = true;                  // as up to 0.13
  std::vector<MegatronRank> ranks;
  std::vector<std::vector<Elements>> values;  // as the tensors of `ranks`

  explicit RankModel(const nlohmann::json& json, MegatronSizes ranks_of,
                     std::vector<std::uint64_t> layers)
      : model(json), sizes(ranks_of), stage_layers(std::move(layers)) {}

  // All files, or for each stage one of each tensor rank, with that expert rank.
  void Save(bool all, const std::vector<std::string_view>& variants = {"live", "live-mtp"}) {
    std::vector<Elements> sources;
    for (const StackTensor& tensor : model.tensors) sources.push_back(model.values[tensor.name]);
    const auto whole = WriteLayout(MegatronNames(), model.config, model.tensors, variants);
    for (std::uint64_t pipeline = 0; pipeline < sizes.pipeline; ++pipeline) {
      for (std::uint64_t stage = 0; stage < sizes.virtual_stages; ++stage) {
        for (std::uint64_t tensor = 0; tensor < sizes.tensor; ++tensor) {
          for (std::uint64_t expert = 0; expert < sizes.expert; ++expert) {
            if (!all && expert != tensor) continue;
            MegatronRank rank{fmt::format("mp_rank_{:02}_{:03}_{:03}", tensor, pipeline, expert),
                              tensor,
                              pipeline,
                              stage,
                              expert,
                              {}};
            values.emplace_back();
            for (const ComposedTensor& one : whole) AddTo(rank, one, Make(one, sources));
            ranks.push_back(rank);
          }
        }
      }
    }
  }

  // Adds the rank's slice, if it has one.
  void AddTo(MegatronRank& rank, const ComposedTensor& tensor, const Elements& elements) {
    std::string name = tensor.name;
    const std::uint64_t last = sizes.pipeline - 1;
    const bool is_last = rank.pipeline == last && rank.virtual_stage == sizes.virtual_stages - 1;
    const std::string layers = "decoder.layers.";
    if (name.starts_with(layers)) {
      const std::uint64_t layer = std::stoull(name.substr(layers.size()));
      std::uint64_t begin = 0;
      if (sizes.virtual_stages > 1) {
        begin = rank.virtual_stage * model.config.num_hidden_layers / sizes.virtual_stages +
                rank.pipeline * stage_layers[0];
      } else {
        for (std::uint64_t i = 0; i < rank.pipeline; ++i) begin += stage_layers[i];
      }
      if (layer < begin || layer >= begin + stage_layers[rank.pipeline]) return;
      name =
          fmt::format("{}{}{}", layers, layer - begin, name.substr(name.find('.', layers.size())));
    } else if (name.starts_with("embedding.")) {
      if ((rank.pipeline != 0 || rank.virtual_stage != 0) && !is_last) return;
    } else if (!is_last) {
      return;
    }
    std::uint64_t slices = sizes.tensor;
    if (Has(name, ".mlp.experts.")) {
      slices = sizes.expert_tensor;
      const bool sequential = Has(name, "local_experts.");
      const std::string before = sequential ? "local_experts." : ".weight";
      const std::size_t at = name.find(before) + before.size();
      const std::uint64_t expert = std::stoull(name.substr(at));
      const std::uint64_t held = model.config.n_routed_experts / sizes.expert;
      if (expert / held != rank.expert) return;
      name = name.substr(0, at) + std::to_string(expert % held) + name.substr(at + 1);
    }
    Cut(rank, name, tensor.shape, elements, rank.tensor % slices, slices);
  }

  void Cut(MegatronRank& rank, const std::string& name, formats::Shape shape,
           const Elements& elements, std::uint64_t i, std::uint64_t n) {
    const std::uint64_t rows = shape[0];
    const std::uint64_t cols = shape.size() == 2 ? shape[1] : 1;
    Elements slice = elements;
    const bool is_vector = shape.size() == 1;
    if (!is_vector && Has(name, "linear_fc1.weight")) {
      std::vector<std::uint64_t> taken = Range(i * rows / 2 / n, (i + 1) * rows / 2 / n);
      for (const std::uint64_t row : Range(i * rows / 2 / n, (i + 1) * rows / 2 / n)) {
        taken.push_back(rows / 2 + row);
      }
      slice = Taken(elements, cols, taken, 0, cols);
      shape[0] /= n;
    } else if (Has(name, "linear_fc2.weight") || Has(name, "linear_proj.weight")) {
      slice = Taken(elements, cols, Range(0, rows), i * cols / n, (i + 1) * cols / n);
      shape[1] /= n;
    } else if (!is_vector && !Has(name, "router") && (down_is_cut || !Has(name, "down_proj"))) {
      slice = Taken(elements, cols, Range(i * rows / n, (i + 1) * rows / n), 0, cols);
      shape[0] /= n;
    }
    rank.tensors.push_back({name, shape});
    values.back().push_back(slice);
  }

  RankReading Read() const { return ReadMegatronRanks(model.config, sizes, ranks); }

  void ExpectReads() const {
    std::vector<Elements> sources;
    for (const auto& of_rank : values)
      sources.insert(sources.end(), of_rank.begin(), of_rank.end());
    const RankReading reading = Read();
    ASSERT_EQ(reading.model.tensors.size(), model.tensors.size());
    std::set<std::uint32_t> reached;
    for (std::size_t i = 0; i < model.tensors.size(); ++i) {
      const ComposedTensor& tensor = reading.model.tensors[i];
      EXPECT_EQ(tensor.name, model.tensors[i].name);
      EXPECT_EQ(Make(tensor, sources), model.values.at(tensor.name)) << tensor.name;
      for (const TensorPart& part : tensor.parts) reached.insert(part.source);
    }
    // What is not read is a copy of what is.
    for (const EqualTensors& copy : reading.copies) {
      EXPECT_EQ(sources.at(copy.first), sources.at(copy.second));
      EXPECT_TRUE(reached.count(copy.first) == 1 && reached.insert(copy.second).second);
    }
    EXPECT_EQ(reached.size(), sources.size());
  }

  Error Refused() const {
    return dsv3::testing::ErrorOf([&] { Read(); });
  }
};

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

TEST(MegatronRanks, SkipWhatIsNotOfTheModel) {
  RankModel ranks = Saved();
  ranks.ranks[0].tensors.push_back({"decoder.layers.0.mlp.linear_fc1._extra_state", {7}});
  ranks.ranks[1].tensors.push_back({"decoder.layers.0.mlp.linear_fc1._extra_state", {9}});
  EXPECT_EQ(ranks.Read().model.skipped, 2U);
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
  EXPECT_EQ(ranks.Refused().place().tensor, "model.layers.1.mlp.experts.2.gate_proj.weight");

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
