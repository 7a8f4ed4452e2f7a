#include "convert/parallel/slicing.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/parallel/slicing_model.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using nlohmann::json;
using testing::DivisibleConfig;
using testing::FindSliced;
using ::testing::IsEmpty;
using testing::MakeModel;
using testing::MakeTopology;
using testing::ModelTensors;
using testing::PlacementFor;
using testing::ShortV3Config;
using ::testing::SizeIs;
using testing::SliceModel;
using testing::V3Config;
using testing::WithoutFp8;

// What the documents say of a weight, told by its name alone and in another way than the rules.
struct Expected {
  std::uint64_t ways = 1;
  bool rows = false;
  bool cols = false;
  bool expert = false;
  bool vocabulary = false;
};

bool Has(const std::string& name, const char* part) { return name.find(part) != std::string::npos; }

Expected ExpectedOf(const std::string& name, const Topology& t) {
  Expected e;
  e.rows = Has(name, ".gate_proj.") || Has(name, ".up_proj.") || Has(name, ".q_proj.") ||
           Has(name, ".q_b_proj.") || Has(name, ".kv_b_proj.") || Has(name, "embed_tokens.") ||
           Has(name, "lm_head.") || Has(name, "shared_head.head.");
  e.cols = Has(name, ".down_proj.") || Has(name, ".o_proj.");
  e.vocabulary = Has(name, "embed_tokens.") || Has(name, "head.weight");
  e.expert = Has(name, ".experts.");
  if (e.expert) {
    e.ways = t.tp * t.dp / t.ep;
  } else if (Has(name, "shared_experts.")) {
    e.ways = t.shared_expert_tp;
  } else if (Has(name, ".mlp.") && (e.rows || e.cols)) {
    e.ways = t.dense_tp;
  } else if (e.vocabulary) {
    e.ways = t.embed_tp;
  } else if (e.rows || e.cols) {
    e.ways = t.tp;
  }
  return e;
}

// The part of `ways` that a rank holds, by the words.
std::uint64_t ExpectedPart(const std::string& name, const Topology& t, std::uint64_t rank) {
  const std::uint64_t r = rank % (t.tp * t.dp);
  const Expected e = ExpectedOf(name, t);
  if (e.expert) return r % (t.tp * t.dp / t.ep);
  return r % e.ways;
}

// Whether a rank holds any part of a tensor.
bool ExpectedOn(const std::string& name, const Topology& t, std::uint64_t rank) {
  const std::uint64_t stage_size = t.tp * t.dp;
  const std::uint64_t stage = rank / stage_size;
  const std::uint64_t r = rank % stage_size;
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return stage == (Has(name, "embed_tokens") ? 0 : t.pp - 1);
  const std::uint64_t layer = std::stoull(name.substr(kLayers.size()));
  if (layer >= t.layers) {
    if (stage != t.pp - 1) return false;
  } else if (layer < stage * t.layers / t.pp || layer >= (stage + 1) * t.layers / t.pp) {
    return false;
  }
  const std::size_t at = name.find(".experts.");
  if (at == std::string::npos) return true;
  // Without a file or a load, physical p is logical p mod E.
  const std::uint64_t expert = std::stoull(name.substr(at + 9));
  const std::uint64_t ep_rank = r / (stage_size / t.ep);
  const std::uint64_t each = t.physical_experts / t.ep;
  for (std::uint64_t p = ep_rank * each; p < (ep_rank + 1) * each; ++p) {
    if (p % t.experts == expert) return true;
  }
  return false;
}

bool IsScale(const std::string& name) { return name.ends_with("_scale_inv"); }

// Every tensor's parts tile it, ranks hold what the documents say, and the scales of a part are
// those of its elements.
void CheckSlicing(const ModelTensors& model, const Topology& topology, const Slicing& slicing,
                  const std::optional<ExpertPlacement>& placement) {
  std::map<std::uint32_t, const SlicedTensor*> by_tensor;
  for (const SlicedTensor& sliced : slicing.tensors) by_tensor[sliced.tensor] = &sliced;
  ASSERT_THAT(by_tensor, SizeIs(slicing.tensors.size()));
  for (const SlicedTensor& sliced : slicing.tensors) {
    const std::string& name = model.catalog.tensors()[sliced.tensor].name;
    SCOPED_TRACE(name);
    const MatrixShape own = MatrixOf(model.ShapeOf(sliced.tensor));
    const Expected expected = ExpectedOf(name, topology);
    if (!IsScale(name)) {
      ASSERT_EQ(sliced.ways, expected.ways);
      const std::uint64_t rows = expected.vocabulary ? (own.rows + 63) / 64 * 64 : own.rows;
      ASSERT_EQ(sliced.padded, (MatrixShape{rows, own.cols}));
    }
    // The parts lie one behind the other along one dimension.
    std::uint64_t at = 0;
    std::vector<std::uint32_t> held;
    for (std::uint64_t part = 0; part < sliced.ways; ++part) {
      const Box box = BoxOf(sliced, part);
      ASSERT_FALSE(box.empty());
      if (expected.cols && sliced.ways > 1) {
        ASSERT_EQ(box.col_begin, at);
        at = box.col_end;
        ASSERT_EQ(box.row_begin, 0U);
        ASSERT_EQ(box.row_end, sliced.padded.rows);
      } else {
        ASSERT_EQ(box.row_begin, at);
        at = box.row_end;
        ASSERT_EQ(box.col_begin, 0U);
        ASSERT_EQ(box.col_end, sliced.padded.cols);
      }
      ASSERT_EQ(box.rows(), BoxOf(sliced, 0).rows());
      ASSERT_EQ(box.cols(), BoxOf(sliced, 0).cols());
      const auto ranks = RanksOf(sliced, part, topology, placement);
      ASSERT_TRUE(std::is_sorted(ranks.begin(), ranks.end()));
      for (const std::uint32_t rank : ranks) {
        ASSERT_EQ(PartOf(sliced, topology.RankAt(rank)), part);
        if (sliced.ways > 1) {
          ASSERT_EQ(ExpectedPart(name, topology, rank), part);
        }
      }
      held.insert(held.end(), ranks.begin(), ranks.end());
    }
    ASSERT_EQ(at, expected.cols && sliced.ways > 1 ? sliced.padded.cols : sliced.padded.rows);
    std::sort(held.begin(), held.end());
    std::vector<std::uint32_t> expected_ranks;
    for (std::uint32_t rank = 0; rank < topology.world_size(); ++rank) {
      if (ExpectedOn(name, topology, rank)) expected_ranks.push_back(rank);
    }
    ASSERT_EQ(held, expected_ranks);

    if (sliced.weight != sliced.tensor) continue;
    // Each element of a rank's part finds its own scale.
    const SlicedTensor& scale = *by_tensor.at(sliced.scale);
    const quant::BlockShape block = sliced.block;
    for (std::uint64_t part = 0; part < sliced.ways; ++part) {
      const Box box = BoxOf(sliced, part);
      const Box scales = BoxOf(scale, scale.ways == 1 ? 0 : part);
      for (std::uint64_t row = 0; row < box.rows(); ++row) {
        ASSERT_EQ(scales.row_begin + row / block.rows, (box.row_begin + row) / block.rows);
      }
      for (std::uint64_t col = 0; col < box.cols(); ++col) {
        ASSERT_EQ(scales.col_begin + col / block.cols, (box.col_begin + col) / block.cols);
      }
      ASSERT_EQ(scales.rows(), (box.rows() + block.rows - 1) / block.rows);
      ASSERT_EQ(scales.cols(), (box.cols() + block.cols - 1) / block.cols);
    }
  }
}

TEST(Slicing, SharesOutEveryTensorInRandomTopologies) {
  const ModelTensors fp8 = MakeModel(DivisibleConfig());
  const ModelTensors bf16 = MakeModel(WithoutFp8(DivisibleConfig()));
  std::mt19937_64 random(7);
  const auto pick = [&](std::initializer_list<std::uint64_t> values) {
    return values.begin()[random() % values.size()];
  };
  int checked = 0;
  for (int i = 0; i < 300 && !HasFatalFailure(); ++i) {
    ParallelOptions options;
    options.tp = pick({1, 2, 4, 8});
    options.ep = pick({1, 2, 3, 4, 5, 8, 16});
    if (random() % 2 == 0) options.dp = pick({1, 2, 4});
    options.pp = pick({1, 1, 2, 3, 5});
    options.redundant_experts = pick({0, 0, 2, 8, 24});
    if (random() % 2 == 0) options.dense_tp = pick({1, 2, 4, 8});
    if (random() % 2 == 0) options.shared_expert_tp = pick({1, 2, 4});
    if (random() % 2 == 0) options.embed_tp = pick({1, 2, 4});
    const ModelTensors& model = random() % 2 == 0 ? fp8 : bf16;
    Topology topology;
    try {
      topology = PlanTopology(options, model.config);
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kUsage);
      continue;
    }
    SCOPED_TRACE(fmt::format("tp {} ep {} dp {} pp {} dense {} shared {} embed {} redundant {}",
                             topology.tp, topology.ep, topology.dp, topology.pp, topology.dense_tp,
                             topology.shared_expert_tp, topology.embed_tp,
                             topology.redundant_experts));
    ++checked;
    const Slicing slicing = SliceModel(model, topology);
    EXPECT_THAT(slicing.tensors, SizeIs(model.catalog.tensors().size()));
    EXPECT_THAT(slicing.dropped, IsEmpty());
    EXPECT_THAT(slicing.replicated_modules, IsEmpty());
    CheckSlicing(model, topology, slicing, PlacementFor(model, topology));
  }
  EXPECT_GT(checked, 60);
}

TEST(Slicing, CutsPlainQueriesByHeads) {
  json config = DivisibleConfig();
  config["q_lora_rank"] = nullptr;
  const ModelTensors model = MakeModel(config);
  const Topology topology = MakeTopology(model, 4);
  const Slicing slicing = SliceModel(model, topology);
  CheckSlicing(model, topology, slicing, PlacementFor(model, topology));
  const SlicedTensor* q = FindSliced(slicing, model, "model.layers.0.self_attn.q_proj.weight");
  ASSERT_NE(q, nullptr);
  EXPECT_EQ(BoxOf(*q, 1), (Box{24, 48, 0, 24})) << "two heads of 12 rows";
}

TEST(Slicing, SharesOutBothPresetsOfV3) {
  const ModelTensors model = MakeModel(V3Config());
  for (const auto preset : {ParallelPreset::kDeepseekPrefill, ParallelPreset::kDeepseekDecode}) {
    const Topology topology = PlanTopology(OptionsOf(preset), model.config);
    const Slicing slicing = SliceModel(model, topology);
    ASSERT_THAT(slicing.tensors, SizeIs(91'991));
    const auto placement = PlacementFor(model, topology);
    std::vector<std::uint64_t> bytes(topology.world_size());
    std::vector<std::set<std::uint64_t>> experts(topology.world_size());
    for (const SlicedTensor& sliced : slicing.tensors) {
      for (std::uint64_t part = 0; part < sliced.ways; ++part) {
        for (const std::uint32_t rank : RanksOf(sliced, part, topology, placement)) {
          bytes[rank] += BoxOf(sliced, part).elements();
          if (sliced.place.layer == 30 && sliced.place.expert) {
            experts[rank].insert(*sliced.place.expert);
          }
        }
      }
    }
    // Prefill: eight experts and one redundant; decode: one each.
    const std::size_t each = preset == ParallelPreset::kDeepseekPrefill ? 9 : 1;
    for (const auto& of_rank : experts) EXPECT_THAT(of_rank, SizeIs(each));
    EXPECT_EQ(*std::min_element(bytes.begin(), bytes.end()),
              *std::max_element(bytes.begin(), bytes.end()));
  }
}

// engines.md: "128-aligned up to".
TEST(Slicing, AlignsV3UpToTheSizesOfTheEngines) {
  const std::string q_b = "model.layers.0.self_attn.q_b_proj.weight";
  const ModelTensors all = MakeModel(ShortV3Config());
  // Without its FP8 the narrowest module does not decide for all of the attention.
  const ModelTensors without_q = MakeModel(ShortV3Config(), [&](auto& tensors) {
    std::erase_if(tensors, [&](const auto& t) { return t.name.starts_with(q_b + "_"); });
    for (CatalogTensor& tensor : tensors) {
      if (tensor.name == q_b) tensor.dtype = Dtype::kBF16;
    }
  });
  const std::map<std::string, std::uint64_t> aligned_up_to = {
      {q_b, 64},
      {"model.layers.0.self_attn.kv_b_proj.weight", 128},
      {"model.layers.0.self_attn.o_proj.weight", 128},
      {"model.layers.0.mlp.gate_proj.weight", 16},
      {"model.layers.0.mlp.up_proj.weight", 16},
      {"model.layers.0.mlp.down_proj.weight", 16},
      {"model.layers.3.mlp.shared_experts.gate_proj.weight", 16},
      {"model.layers.3.mlp.shared_experts.down_proj.weight", 16},
      {"model.layers.3.mlp.experts.9.up_proj.weight", 16},
      {"model.layers.3.mlp.experts.9.down_proj.weight", 16},
      {"model.embed_tokens.weight", 128},
      {"lm_head.weight", 128},
  };
  for (std::uint64_t ways = 1; ways <= 128; ways *= 2) {
    Topology topology = MakeTopology(all, 1);
    topology.tp = topology.dense_tp = topology.shared_expert_tp = topology.embed_tp = ways;
    topology.moe_tp = ways;
    SlicingOptions options;
    options.on_misaligned = OnMisaligned::kReplicateModule;
    const Slicing with = SliceModel(all, topology, options);
    const Slicing without = SliceModel(without_q, topology, options);
    for (const auto& [name, up_to] : aligned_up_to) {
      const bool of_all = name == q_b;
      const SlicedTensor* sliced =
          FindSliced(of_all ? with : without, of_all ? all : without_q, name);
      ASSERT_NE(sliced, nullptr);
      EXPECT_EQ(sliced->ways, ways <= up_to ? ways : 1) << name << " in " << ways;
    }
  }
}

}  // namespace
}  // namespace dsv3::convert
