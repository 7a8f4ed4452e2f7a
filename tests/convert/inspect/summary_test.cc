#include "convert/inspect/summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/model/expected_tensors.h"
#include "tests/convert/model/configs.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

struct Entry {
  std::string name;
  Dtype dtype = Dtype::kBF16;
  Shape shape = {2, 3};
};

Catalog MakeCatalog(const std::vector<Entry>& entries) {
  std::vector<CatalogTensor> tensors;
  for (const Entry& entry : entries) {
    tensors.push_back({entry.name,
                       entry.dtype,
                       entry.shape,
                       {0, 0, formats::NumBytes(entry.dtype, entry.shape).value()}});
  }
  SourceFile file;
  file.name = "model.safetensors";
  file.bytes = 1000;
  return Catalog({file}, std::move(tensors));
}

// The tree in one line: "a(b(x y) [0-2](w))".
std::string Outline(const SummaryNode& node) {
  std::string text = node.name;
  if (node.children.empty()) return text;
  std::string below;
  for (const SummaryNode& child : node.children) {
    if (!below.empty()) below += ' ';
    below += Outline(child);
  }
  return text.empty() ? below : text + "(" + below + ")";
}

std::string OutlineOf(const std::vector<Entry>& entries) {
  return Outline(Summarize(MakeCatalog(entries), nullptr).root);
}

TEST(Summarize, MergesNumbersWithEqualSubtrees) {
  EXPECT_EQ(OutlineOf({{"layers.0.w"}, {"layers.1.w"}, {"layers.2.w"}}), "layers([0-2](w))");
}

TEST(Summarize, NamesRangesWithGaps) {
  EXPECT_EQ(OutlineOf({{"a.0.w"}, {"a.1.w"}, {"a.2.w"}, {"a.5.w"}, {"a.7.w"}, {"a.8.w"}}),
            "a([0-2,5,7,8](w))");
}

TEST(Summarize, SortsNumbersByValueWhateverTheirOrder) {
  EXPECT_EQ(OutlineOf({{"a.10.w"}, {"a.9.w"}, {"a.8.v"}, {"a.11.w"}}), "a(8(v) [9-11](w))");
}

TEST(Summarize, KeepsNumbersApartThatDifferBelow) {
  EXPECT_EQ(OutlineOf({{"l.0.w"}, {"l.1.w"}, {"l.1.b"}, {"l.2.w"}}), "l([0,2](w) 1(b w))");
  EXPECT_EQ(OutlineOf({{"l.0.w"}, {"l.1.w", Dtype::kF32}}), "l(0(w) 1(w))");
  EXPECT_EQ(OutlineOf({{"l.0.w"}, {"l.1.w", Dtype::kBF16, {3, 2}}}), "l(0(w) 1(w))");
}

TEST(Summarize, MergesNestedNumbersOnlyWhenTheirSetsAreEqual) {
  EXPECT_EQ(OutlineOf({{"l.0.e.0.w"}, {"l.0.e.1.w"}, {"l.1.e.1.w"}, {"l.1.e.0.w"}}),
            "l([0,1](e([0,1](w))))");
  EXPECT_EQ(OutlineOf({{"l.0.e.0.w"}, {"l.0.e.1.w"}, {"l.1.e.0.w"}, {"l.1.e.2.w"}}),
            "l(0(e([0,1](w))) 1(e([0,2](w))))");
}

TEST(Summarize, HandlesNumbersAtTheEnd) {
  EXPECT_EQ(OutlineOf({{"heads.0"}, {"heads.1"}}), "heads([0,1])");
  EXPECT_EQ(OutlineOf({{"a"}, {"a.b"}, {"a.0"}}), "a a(0 b)")
      << "a name may be the beginning of another";
}

TEST(Summarize, TakesOnlyPlainNumbersAsNumbers) {
  EXPECT_EQ(OutlineOf({{"a.01.w"}, {"a.1.w"}, {"a.w2.w"}, {"a.12345678901.w"}}),
            "a(1(w) 01(w) 12345678901(w) w2(w))");
  EXPECT_EQ(OutlineOf({{"a.\x01.w"}, {"a.3.w"}, {"a..w"}}), "a(w 3(w) \x01(w))")
      << "hostile components are words";
}

TEST(Summarize, SurvivesVeryManyComponentsAndHugeNumbers) {
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "1.";
  const Summary summary =
      Summarize(MakeCatalog({{deep}, {"a.999999999.w"}, {"a.5.w"}, {""}, {"..."}}), nullptr);
  EXPECT_EQ(summary.tensors, 5U);
  EXPECT_EQ(summary.root.tensors, 5U);
}

TEST(Summarize, AddsUpTensorsParametersAndBytes) {
  const Summary summary =
      Summarize(MakeCatalog({{"l.0.w"}, {"l.1.w"}, {"n", Dtype::kF32, {4}}}), nullptr);
  const SummaryNode& layers = summary.root.children[0];
  EXPECT_EQ(layers.tensors, 2U);
  EXPECT_EQ(layers.parameters, 12U);
  EXPECT_EQ(layers.bytes, 24U);
  EXPECT_EQ(summary.root.parameters, 16U);
  EXPECT_EQ(summary.parameters, 16U);
  EXPECT_EQ(summary.tensor_bytes, 40U);
  EXPECT_EQ(summary.files, 1U);
  EXPECT_EQ(summary.file_bytes, 1000U);
  ASSERT_THAT(summary.dtypes, SizeIs(2));
  EXPECT_EQ(summary.dtypes[0].dtype, Dtype::kBF16) << "most bytes first";
  EXPECT_EQ(summary.dtypes[0].tensors, 2U);
  EXPECT_FALSE(summary.activated_parameters);
}

TEST(Summarize, FoldsScalesIntoTheirWeights) {
  const Summary summary = Summarize(MakeCatalog({{"w", Dtype::kF8E4M3},
                                                 {"w_scale_inv", Dtype::kF32, {1, 1}},
                                                 {"v.weight", Dtype::kF8E4M3},
                                                 {"v.scale", Dtype::kF8E8M0, {1, 1}},
                                                 {"p_packed", Dtype::kI32},
                                                 {"p_scale", Dtype::kBF16, {1, 1}}}),
                                    nullptr);
  EXPECT_EQ(Outline(summary.root), "p_packed v(weight) w");
  const SummaryNode& w = summary.root.children[2];
  ASSERT_THAT(w.scales, SizeIs(1));
  EXPECT_EQ(w.scales[0].name, "w_scale_inv");
  EXPECT_EQ(w.scales[0].shape, (Shape{1, 1}));
  EXPECT_EQ(w.tensors, 1U);
  EXPECT_EQ(w.parameters, 6U);
  EXPECT_EQ(w.bytes, 10U);
  EXPECT_EQ(summary.scales, 3U);
  EXPECT_EQ(summary.scale_elements, 3U);
  EXPECT_EQ(summary.scale_bytes, 7U);
  EXPECT_EQ(summary.parameters, 18U);
}

TEST(Summarize, LeavesParametersAloneThatAreOnlyNamedLikeScales) {
  const Summary summary = Summarize(
      MakeCatalog({{"hc_attn_scale", Dtype::kF32, {4}}, {"hc_attn_fn", Dtype::kF32, {4}}}),
      nullptr);
  EXPECT_EQ(summary.scales, 0U);
  EXPECT_EQ(summary.parameters, 8U);
}

TEST(Summarize, ShowsALayerApartWhoseScaleIsMissing) {
  EXPECT_EQ(OutlineOf({{"l.0.w", Dtype::kF8E4M3},
                       {"l.0.w_scale_inv", Dtype::kF32, {1, 1}},
                       {"l.1.w", Dtype::kF8E4M3}}),
            "l(0(w) 1(w))");
}

TEST(Summarize, CountsMtpApart) {
  ModelConfig config;
  config.num_hidden_layers = 2;
  const Catalog catalog = MakeCatalog({{"model.layers.0.w"},
                                       {"model.layers.1.w"},
                                       {"model.layers.2.w", Dtype::kF8E4M3},
                                       {"model.layers.2.w_scale_inv", Dtype::kF32, {1, 1}},
                                       {"mtp.0.w"}});
  const Summary summary = Summarize(catalog, &config);
  EXPECT_EQ(summary.parameters, 12U);
  EXPECT_EQ(summary.mtp_parameters, 12U);
  EXPECT_EQ(summary.mtp_tensors, 3U);
  EXPECT_EQ(summary.mtp_bytes, 6U + 4U + 12U);
  EXPECT_EQ(Summarize(catalog, nullptr).mtp_parameters, 6U) << "no config: only mtp.* is told";
}

TEST(Summarize, CountsOneEmbeddingRowAndTheChosenExpertsAsActivated) {
  ModelConfig config;
  config.num_hidden_layers = 1;
  config.n_routed_experts = 4;
  config.num_experts_per_tok = 2;
  std::vector<Entry> entries = {{"model.embed_tokens.weight", Dtype::kBF16, {10, 3}},
                                {"lm_head.weight", Dtype::kBF16, {10, 3}}};
  for (const char* e : {"0", "1", "2", "3"}) {
    entries.push_back({"model.layers.0.mlp.experts." + std::string(e) + ".w"});
    entries.push_back({"model.layers.1.mlp.experts." + std::string(e) + ".w"});
  }
  const Summary summary = Summarize(MakeCatalog(entries), &config);
  EXPECT_EQ(summary.parameters, 30U + 30 + 4 * 6);
  EXPECT_EQ(summary.activated_parameters, 3U + 30 + 2 * 6);
  config.num_experts_per_tok = 0;
  EXPECT_FALSE(Summarize(MakeCatalog(entries), &config).activated_parameters);
}

TEST(Summarize, FindsTheSizesOfV3) {
  const ModelConfig config = ParseModelConfig(testing::V3Config().dump(), "config.json");
  std::vector<Entry> entries;
  for (const auto& tensor : ExpectedTensors(config)) {
    entries.push_back({tensor.name, Dtype::kBF16, tensor.shape});
  }
  const Summary summary = Summarize(MakeCatalog(entries), &config);
  EXPECT_EQ(summary.parameters, 671'026'419'200U);
  EXPECT_EQ(summary.activated_parameters, 36'625'625'600U);
  EXPECT_EQ(summary.mtp_parameters, 13'463'426'304U);
  const SummaryNode& model = summary.root.children[1];
  std::vector<std::string> layers;
  for (const auto& node : model.children[1].children) layers.push_back(node.name);
  EXPECT_THAT(layers, ElementsAre("[0-2]", "[3-60]", "61"));
}

TEST(Summarize, AcceptsAnEmptyCheckpoint) {
  const Summary summary = Summarize(MakeCatalog({}), nullptr);
  EXPECT_THAT(summary.root.children, IsEmpty());
  EXPECT_EQ(summary.tensors, 0U);
}

}  // namespace
}  // namespace dsv3::convert
