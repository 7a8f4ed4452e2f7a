#include "cli/inspect_render.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/inspect_lines.h"
#include "cli/inspect_list.h"
#include "convert/model/expected_tensors.h"
#include "tests/convert/model/configs.h"

namespace dsv3::cli {
namespace {

using convert::Catalog;
using convert::CatalogTensor;
using convert::Inspection;
using formats::Dtype;
using formats::Shape;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Catalog MakeCatalog(std::vector<CatalogTensor> tensors) {
  convert::SourceFile file;
  file.name = "model.safetensors";
  return Catalog({file}, std::move(tensors));
}

CatalogTensor Tensor(const std::string& name, Dtype dtype = Dtype::kBF16, Shape shape = {2, 3}) {
  const std::uint64_t bytes = formats::NumBytes(dtype, shape).value();
  return {name, dtype, std::move(shape), {0, 0, bytes}};
}

Inspection MakeInspection(std::vector<CatalogTensor> tensors,
                          std::optional<convert::ModelConfig> config = std::nullopt) {
  Inspection inspection;
  inspection.path = "models/x";
  inspection.model.catalog = MakeCatalog(std::move(tensors));
  inspection.config = std::move(config);
  inspection.summary = convert::Summarize(inspection.model.catalog,
                                          inspection.config ? &*inspection.config : nullptr);
  return inspection;
}

std::vector<std::string> LinesOf(std::vector<CatalogTensor> tensors) {
  std::vector<std::string> lines;
  const Inspection inspection = MakeInspection(std::move(tensors));
  for (const InspectLine& line : InspectLines(inspection.summary.root)) {
    lines.push_back((line.heading ? "# " : line.indented ? "  " : "") + line.name);
  }
  return lines;
}

// DeepSeek-V3 with scales.
Inspection V3() {
  auto config = convert::ParseModelConfig(convert::testing::V3Config().dump(), "config.json");
  std::vector<CatalogTensor> tensors;
  for (const auto& t : convert::ExpectedTensors(config)) {
    const bool fp8 = convert::IsQuantized(t.role);
    tensors.push_back(Tensor(t.name, fp8 ? Dtype::kF8E4M3 : Dtype::kBF16, t.shape));
    if (!fp8) continue;
    tensors.push_back(Tensor(t.name + "_scale_inv", Dtype::kF32,
                             {(t.shape[0] + 127) / 128, (t.shape[1] + 127) / 128}));
  }
  return MakeInspection(std::move(tensors), std::move(config));
}

TEST(InspectLines, HeadsRangesThatHoldSeveralTensors) {
  EXPECT_THAT(LinesOf({Tensor("m.l.0.a.w"), Tensor("m.l.0.b.v", Dtype::kF32), Tensor("m.l.1.a.w"),
                       Tensor("m.l.1.b.v", Dtype::kF32), Tensor("z.0.w"), Tensor("z.1.w")}),
              ElementsAre("# m.l.[0,1]", "  a.w", "  b.v", "z.[0,1].w"));
}

TEST(InspectLines, JoinsNeighboursThatDifferInOneComponent) {
  EXPECT_THAT(
      LinesOf({Tensor("gate_proj.w"), Tensor("up_proj.w"), Tensor("down_proj.w", Dtype::kF32)}),
      ElementsAre("down_proj.w", "{gate,up}_proj.w"));
  EXPECT_THAT(
      LinesOf({Tensor("enorm.w"), Tensor("hnorm.w"), Tensor("in_norm.w"), Tensor("post_norm.w")}),
      ElementsAre("{enorm,hnorm}.w", "{in,post}_norm.w"));
  EXPECT_THAT(LinesOf({Tensor("a.x"), Tensor("b.y")}), ElementsAre("a.x", "b.y"));
  EXPECT_THAT(LinesOf({Tensor("a.0.w"), Tensor("a.1.w", Dtype::kF32)}),
              ElementsAre("a.0.w", "a.1.w"));
}

TEST(InspectLines, AddsUpWhatALineStandsFor) {
  const Inspection inspection = MakeInspection(
      {Tensor("l.0.gate_p"), Tensor("l.0.up_p"), Tensor("l.1.gate_p"), Tensor("l.1.up_p")});
  const auto lines = InspectLines(inspection.summary.root);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0].tensors, 4U);
  EXPECT_EQ(lines[1].name, "{gate,up}_p");
  EXPECT_EQ(lines[1].tensors, 4U);
  EXPECT_EQ(lines[1].parameters, 24U);
  EXPECT_EQ(lines[1].bytes, 48U);
}

TEST(InspectLines, CutsLongListsOfNumbers) {
  std::vector<CatalogTensor> tensors;
  for (int i = 0; i < 200; i += 2) tensors.push_back(Tensor("l." + std::to_string(i) + ".w"));
  const auto lines = LinesOf(std::move(tensors));
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_THAT(lines[0], HasSubstr("l.[0,2,4,"));
  EXPECT_THAT(lines[0], HasSubstr(",…].w"));
  EXPECT_LT(lines[0].size(), 70U);
}

TEST(InspectionText, TellsV3InAScreenful) {
  const std::string text = InspectionText(V3());
  EXPECT_THAT(text, HasSubstr("671B, 37B activated per token (671,026,419,200; 36,625,625,600)"));
  EXPECT_THAT(text, HasSubstr("MTP apart   13B"));
  EXPECT_THAT(text, HasSubstr("model.layers.[3-60]"));
  EXPECT_THAT(text, HasSubstr("mlp.experts.[0-255].{gate,up}_proj.weight"));
  EXPECT_THAT(text, HasSubstr("×29,696"));
  EXPECT_LE(std::count(text.begin(), text.end(), '\n'), 60);
  EXPECT_THAT(text, Not(HasSubstr(" \n")));
}

TEST(InspectionText, FitsTheTerminal) {
  std::istringstream text(InspectionText(V3(), 80));
  for (std::string line; std::getline(text, line);) {
    EXPECT_LE(std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; }),
              80)
        << line;
  }
}

TEST(InspectionText, ShowsAFewFindingsOfEachKind) {
  Inspection inspection = MakeInspection({Tensor("w")});
  for (int i = 0; i < 9; ++i) {
    inspection.findings.push_back(
        {formats::Severity::kError, "missing-tensor", "", "t", "t is not there"});
  }
  const std::string text = InspectionText(inspection);
  EXPECT_THAT(text, HasSubstr("  error: t is not there\n"));
  EXPECT_THAT(text, HasSubstr("  and 4 more of missing-tensor\n"));
}

TEST(InspectionText, MakesHostileNamesHarmless) {
  const std::string text =
      InspectionText(MakeInspection({Tensor("a\x1b[2Jb\n"), Tensor("a\x1b[2Jc\n")}));
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_THAT(text, HasSubstr("\\x1b"));
}

TEST(InspectionJson, HoldsTotalsAndTree) {
  const json report = json::parse(InspectionJson(V3(), "dsv3-inspect"));
  EXPECT_EQ(report["tool"], "dsv3-inspect");
  EXPECT_EQ(report["input"], "models/x");
  EXPECT_EQ(report["parameters"], 671'026'419'200U);
  EXPECT_EQ(report["activated_parameters"], 36'625'625'600U);
  EXPECT_EQ(report["tensors"], 91'991U);
  EXPECT_EQ(report["mtp"]["parameters"], 13'463'426'304U);
  EXPECT_EQ(report["scales"]["tensors"], 45'808U);
  EXPECT_EQ(report["model"]["quantization"]["weight_block_size"], json({128, 128}));
  const json& layers = report["tree"][1]["children"][1]["children"];
  ASSERT_EQ(layers.size(), 3U);
  EXPECT_EQ(layers[1]["name"], "[3-60]");
  EXPECT_EQ(report["tree"][0]["children"][0]["dtype"], "BF16");
}

TEST(InspectionJson, HasNullsForWhatIsNotKnown) {
  const json report =
      json::parse(InspectionJson(MakeInspection({Tensor("w\xff")}), "dsv3-inspect"));
  EXPECT_TRUE(report["model"].is_null());
  EXPECT_TRUE(report["activated_parameters"].is_null());
}

// A model in the rank shards of a prefill unit, of which rank 3 loads less.
Inspection Ranks() {
  Inspection inspection = MakeInspection({Tensor("w")});
  formats::RankLayout& layout = inspection.ranks.emplace();
  layout.format = "hf-rank";
  layout.grouping = "rank";
  layout.sizes.world_size = 32;
  layout.sizes.tp = 4;
  layout.sizes.dp = 8;
  layout.sizes.ep = 32;
  for (std::uint64_t rank = 0; rank < 32; ++rank) {
    layout.ranks.emplace_back();
    layout.ranks.back().rank = rank;
    layout.ranks.back().bytes = rank == 3 ? 10 : 20;
  }
  inspection.summary.files = 64;
  inspection.summary.file_bytes = 2'000;
  return inspection;
}

TEST(InspectionText, TellsOfRankShards) {
  Inspection inspection = Ranks();
  std::string text = InspectionText(inspection);
  EXPECT_THAT(text, HasSubstr("models/x (rank shards)\n"));
  EXPECT_THAT(text, HasSubstr("32 = TP 4 × DP 8, experts over EP 32\n"));
  EXPECT_THAT(text, HasSubstr("10 bytes (rank 3) to 20 bytes (rank 0)\n"));
  EXPECT_THAT(text, HasSubstr("64 in the format hf-rank, 2.0 kB\n"));
  EXPECT_THAT(text, HasSubstr("1, each counted once, 12 bytes\n"));
  inspection.ranks->sizes.redundant_experts = 64;
  inspection.ranks->sizes.pp = 2;
  EXPECT_THAT(InspectionText(inspection),
              HasSubstr("32 = TP 4 × DP 8 × PP 2, experts and 64 redundant ones over EP 32\n"));
}

TEST(InspectionJson, TellsOfRankShards) {
  const json report = json::parse(InspectionJson(Ranks(), "dsv3-inspect"));
  EXPECT_EQ(report["form"], "ranks");
  EXPECT_EQ(report["ranks"]["world_size"], 32);
  EXPECT_EQ(report["ranks"]["ep"], 32);
  EXPECT_EQ(report["ranks"]["bytes"].size(), 32U);
  EXPECT_EQ(report["ranks"]["bytes"][3], 10);
  EXPECT_TRUE(json::parse(InspectionJson(V3(), "dsv3-inspect"))["ranks"].is_null());
}

TEST(TensorReport, TellsHeaderPlaceAndStatistics) {
  Inspection inspection = MakeInspection({{"w", Dtype::kF8E4M3, {2, 3}, {0, 100, 6}}});
  convert::TensorStatistics statistics;
  statistics.stored.emplace();
  statistics.stored->values = statistics.stored->finite = 6;
  statistics.stored->min = -1.5;
  statistics.stored->nans = 2;
  statistics.note = "No scale.";
  const std::string text = TensorText(inspection, {0, statistics});
  EXPECT_THAT(text, HasSubstr("[2, 3], 6 elements"));
  EXPECT_THAT(text, HasSubstr("bytes [100, 106) of the file"));
  EXPECT_THAT(text, HasSubstr("codes, unscaled"));
  EXPECT_THAT(text, HasSubstr("-1.5 to 0"));
  EXPECT_THAT(text, HasSubstr("2 NaN"));
  EXPECT_THAT(text, HasSubstr("No scale."));
  const json report = json::parse(TensorJson(inspection, {0, statistics}, "dsv3-inspect"));
  EXPECT_EQ(report["offset"], 100U);
  EXPECT_EQ(report["bytes"], 6U);
  EXPECT_EQ(report["stored"]["min"], -1.5);
  EXPECT_TRUE(report["dequantized"].is_null());
  EXPECT_TRUE(report["scale"].is_null());
}

TEST(TensorReport, HasNullsWhereNothingIsFinite) {
  convert::TensorStatistics statistics;
  statistics.stored.emplace();
  const json report =
      json::parse(TensorJson(MakeInspection({Tensor("w")}), {0, statistics}, "dsv3-inspect"));
  EXPECT_TRUE(report["stored"]["min"].is_null());
  EXPECT_EQ(report["stored"]["values"], 0U);
}

TEST(InspectList, HasALineForEachTensor) {
  const Inspection inspection =
      MakeInspection({Tensor("a.weight"), Tensor("b\x1b", Dtype::kF32, {}), Tensor("long.name")});
  EXPECT_EQ(ListText(inspection, {0, 1, 2}),
            "a.weight   BF16  [2, 3]  12  model.safetensors\n"
            "b\\x1b      F32   []       4  model.safetensors\n"
            "long.name  BF16  [2, 3]  12  model.safetensors\n");
  EXPECT_EQ(ListText(inspection, {2}, 46), "long.name  BF16  [2, 3]  12  model.safetensors\n");
  const json report = json::parse(ListJson(inspection, {2}, "dsv3-inspect"));
  ASSERT_EQ(report["tensors"].size(), 1U);
  EXPECT_EQ(report["tensors"][0]["name"], "long.name");
  EXPECT_EQ(report["tensors"][0]["bytes"], 12);
  EXPECT_EQ(report["input"], "models/x");
}

TEST(InspectList, LeavesTheFileOutWhereNamesHaveNoRoom) {
  const Inspection inspection =
      MakeInspection({Tensor("model.layers.12.mlp.experts.255.down_proj.weight_scale_inv")});
  const std::string cut = "…12.mlp.experts.255.down_proj.weight_scale_inv  BF16  [2, 3]  12";
  EXPECT_EQ(ListText(inspection, {0}, 83), cut + "  model.safetensors\n");
  EXPECT_EQ(ListText(inspection, {0}, 64), cut + "\n");
  EXPECT_THAT(ListText(inspection, {0}),
              ::testing::StartsWith("model.layers.12.mlp.experts.255.down_proj.weight_scale_inv "));
}

TEST(TensorsJson, HasEveryTensorThatAGlobMatched) {
  const Inspection inspection = MakeInspection({Tensor("a"), Tensor("b")});
  const json report = json::parse(TensorsJson(inspection, {{0, {}}, {1, {}}}, "dsv3-inspect"));
  ASSERT_EQ(report["tensors"].size(), 2U);
  EXPECT_EQ(report["tensors"][1]["name"], "b");
  EXPECT_TRUE(report["tensors"][1]["stored"].is_null());
}

}  // namespace
}  // namespace dsv3::cli
