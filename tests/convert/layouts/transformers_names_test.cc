#include "convert/layouts/transformers_names.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "convert/layouts/scaled_layout.h"
#include "convert/layouts/write_layout.h"
#include "formats/error.h"
#include "tests/convert/layouts/stack_model.h"

namespace dsv3::convert {
namespace {

using testing::ExpectReads;
using testing::ExpectRefuses;
using testing::ExpectWrites;
using testing::SmallConfig;
using testing::StackModel;

constexpr std::uint64_t kExperts = 4;

std::vector<std::string> Experts(std::uint64_t layer, const std::vector<std::string>& parts) {
  std::vector<std::string> names;
  for (std::uint64_t e = 0; e < kExperts; ++e) {
    for (const std::string& part : parts) {
      names.push_back(fmt::format("model.layers.{}.mlp.experts.{}.{}", layer, e, part));
    }
  }
  return names;
}

// The main layer with experts and the MTP layer have theirs fused.
StackModel Fused() {
  StackModel model;
  for (const StackTensor& tensor : ModelTensorsOf(model.config)) {
    if (tensor.name.find(".experts.") == std::string::npos) {
      model.Add(tensor.name, tensor.shape, tensor.name);
    }
  }
  for (const std::uint64_t layer : {1U, 2U}) {
    const std::string experts = fmt::format("model.layers.{}.mlp.experts.", layer);
    model.AddRows(experts + "gate_up_proj", {kExperts, 12, 8},
                  Experts(layer, {"gate_proj.weight", "up_proj.weight"}));
    model.AddRows(experts + "down_proj", {kExperts, 8, 6}, Experts(layer, {"down_proj.weight"}));
  }
  return model;
}

ModelConfig WithBlocks(std::uint64_t rows, std::uint64_t cols) {
  auto json = SmallConfig();
  json["quantization_config"]["weight_block_size"] = {rows, cols};
  return ParseModelConfig(json.dump(), "config.json");
}

TEST(TransformersNames, AreReadAndWritten) {
  const StackModel model = Fused();
  ExpectReads(TransformersNames(), model);
  ExpectWrites(TransformersNames(), model, {"fused"});
}

TEST(TransformersNames, KnowATensorForEachExpert) {
  StackModel model;
  for (const StackTensor& tensor : ModelTensorsOf(model.config)) {
    model.Add(tensor.name, tensor.shape, tensor.name);
  }
  ExpectReads(TransformersNames(), model);
  ExpectWrites(TransformersNames(), model);
}

TEST(TransformersNames, TakeScalesApartAndPutThemTogether) {
  StackModel model = Fused();
  model.config = WithBlocks(3, 4);
  const std::string fused = "model.layers.1.mlp.experts.";
  const std::string shared = "model.layers.1.mlp.shared_experts.up_proj.weight_scale_inv";
  model.Add(shared, {2, 2}, shared);
  model.AddRows(fused + "gate_up_proj_scale_inv", {kExperts, 4, 2},
                Experts(1, {"gate_proj.weight_scale_inv", "up_proj.weight_scale_inv"}));
  model.AddRows(fused + "down_proj_scale_inv", {kExperts, 3, 2},
                Experts(1, {"down_proj.weight_scale_inv"}));
  const LayoutReading reading =
      ReadScaledLayout(TransformersNames(), model.config, model.Tensors());
  const auto up = std::find_if(reading.tensors.begin(), reading.tensors.end(),
                               [&](const ComposedTensor& tensor) {
                                 return tensor.name == fused + "2.up_proj.weight_scale_inv";
                               });
  ASSERT_NE(up, reading.tensors.end());
  EXPECT_EQ((up - 1)->name, fused + "2.up_proj.weight");
  EXPECT_EQ(up->shape, (formats::Shape{2, 2}));
  ASSERT_EQ(up->parts.size(), 1U);
  EXPECT_EQ(model.entries[up->parts[0].source].name, fused + "gate_up_proj_scale_inv");
  EXPECT_EQ(up->parts[0].box, (Box{2 * 4 + 2, 2 * 4 + 4, 0, 2}));

  std::vector<StackTensor> tensors;
  for (const ComposedTensor& tensor : reading.tensors)
    tensors.push_back({tensor.name, tensor.shape});
  const std::vector<ComposedTensor> written =
      WriteScaledLayout(TransformersNames(), model.config, tensors, {"fused"});
  EXPECT_EQ(written.size(), model.entries.size());
  for (const ComposedTensor& tensor : written) {
    const auto& entry = model.Find(tensor.name);
    EXPECT_EQ(tensor.shape, entry.shape) << tensor.name;
    ASSERT_EQ(tensor.parts.size(), entry.holds.size()) << tensor.name;
    for (std::size_t i = 0; i < tensor.parts.size(); ++i) {
      EXPECT_EQ(tensors[tensor.parts[i].source].name, entry.holds[i].name);
    }
  }
}

TEST(TransformersNames, RejectScaleBlocksThatGateAndUpShare) {
  StackModel model = Fused();
  model.config = WithBlocks(4, 4);
  model.AddRows("model.layers.1.mlp.experts.gate_up_proj_scale_inv", {kExperts, 3, 2}, {"", ""});
  const auto refused = [](const auto& call, const std::string& tensor) {
    const Error error = dsv3::testing::ErrorOf(call);
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_EQ(error.place().tensor, tensor);
    EXPECT_THAT(error.message(), ::testing::HasSubstr("convert with fp8-to-bf16 first"));
  };
  refused([&] { ReadScaledLayout(TransformersNames(), model.config, model.Tensors()); },
          "model.layers.1.mlp.experts.gate_up_proj_scale_inv");
  const std::string up = "model.layers.1.mlp.experts.0.up_proj.weight";
  const std::vector<StackTensor> weight = {{up, {6, 8}}, {up + "_scale_inv", {2, 2}}};
  refused([&] { WriteScaledLayout(TransformersNames(), model.config, weight, {"fused"}); },
          "model.layers.1.mlp.experts.gate_up_proj_scale_inv");
  EXPECT_EQ(WriteScaledLayout(TransformersNames(), model.config, weight).size(), 2U);
}

// An output would be called fused that is not.
TEST(TransformersNames, RejectExpertsThatWouldStayApart) {
  const StackModel stack = Fused();
  const auto refusal = [&](const std::string& name, const ModelConfig& config,
                           const std::vector<std::string_view>& variants) {
    std::vector<StackTensor> model = ModelTensorsOf(stack.config);
    model.push_back({name, {6, 8}});
    try {
      WriteLayout(TransformersNames(), config, model, variants);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      return error.message();
    }
    return std::string();
  };
  ModelConfig of_others = stack.config;  // "num_experts"
  of_others.n_routed_experts = 0;
  const std::string first = "model.layers.1.mlp.experts.0.gate_proj.weight";
  EXPECT_NE(refusal("x", of_others, {"fused"}).find(first), std::string::npos);
  for (const std::string name :
       {"model.layers.1.mlp.experts.4.up_proj.weight", "model.layers.1.mlp.experts.0.up_proj.bias",
        "model.layers.1.block_sparse_moe.experts.0.w1.weight"}) {
    EXPECT_NE(refusal(name, stack.config, {"fused"}).find(name), std::string::npos);
    EXPECT_EQ(refusal(name, stack.config, {}), "");
  }
}

TEST(TransformersNames, RejectWhatDoesNotFitTheConfig) {
  StackModel model = Fused();
  model.Remove("model.layers.1.mlp.experts.down_proj");
  ExpectRefuses(TransformersNames(), model, "model.layers.1.mlp.experts.0.down_proj.weight",
                {"lacks 'model.layers.1.mlp.experts.down_proj'"});

  model = Fused();
  model.Find("model.layers.1.mlp.experts.gate_up_proj").shape = {kExperts, 6, 8};
  ExpectRefuses(TransformersNames(), model, "model.layers.1.mlp.experts.gate_up_proj",
                {"shape [4, 6, 8]", "predicts [4, 12, 8]"});

  model = Fused();
  model.entries.push_back({"model.layers.1.mlp.experts.0.up_proj.weight", {6, 8}, {}});
  ExpectRefuses(TransformersNames(), model, "model.layers.1.mlp.experts.0.up_proj.weight",
                {"a weight would be lost"});

  model = Fused();
  model.Remove("model.layers.2.");
  ExpectReads(TransformersNames(), model);
}

}  // namespace
}  // namespace dsv3::convert
