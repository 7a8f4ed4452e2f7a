#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/model/expected_tensors.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "tests/convert/model/configs.h"
#include "tests/formats/expect_error.h"

// Which tensors bf16-to-fp8 quantises, by the model's rules, lists and globs.
namespace dsv3::convert {
namespace {

using formats::Dtype;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class SelectionTest : public ::testing::Test {
 protected:
  SelectionTest() {
    nlohmann::json json = testing::SmallConfig();
    json["model_type"] = "deepseek_v32";
    json["index_n_heads"] = 2;
    json["index_head_dim"] = 4;
    json.erase("quantization_config");
    config_ = ParseModelConfig(json.dump(), "config.json");
    for (const ExpectedTensor& expected : ExpectedTensors(config_)) {
      Add(expected.name, Dtype::kBF16, expected.shape);
      if (IsQuantized(expected.role)) by_rule_.insert(expected.name);
    }
  }

  void Add(const std::string& name, Dtype dtype, const formats::Shape& shape) {
    tensors_.push_back({name, dtype, shape, {0, 0, *formats::NumBytes(dtype, shape)}});
  }

  TensorSelection Select(const std::vector<std::string>& listed = {}) {
    catalog_ = Catalog({{"file", "file", 0, 0, ""}}, tensors_);
    return SelectTensors(catalog_, config_, options_, form_, ModuleList(listed));
  }

  std::set<std::string> Names(const TensorSelection& selection) const {
    std::set<std::string> names;
    for (const std::uint32_t i : selection.quantized) names.insert(catalog_.tensors()[i].name);
    return names;
  }

  ModelConfig config_;
  std::vector<CatalogTensor> tensors_;
  std::set<std::string> by_rule_;
  Catalog catalog_{{}, {}};
  Bf16ToFp8Options options_;
  Fp8Form form_;
};

TEST_F(SelectionTest, TakesTheLinearsThatTheModelQuantises) {
  const TensorSelection selection = Select();
  EXPECT_EQ(Names(selection), by_rule_);
  for (const char* name :
       {"model.layers.0.self_attn.indexer.wq_b.weight",
        "model.layers.0.self_attn.indexer.wk.weight", "model.layers.2.mlp.experts.3.up_proj.weight",
        "model.layers.2.self_attn.o_proj.weight"}) {
    EXPECT_EQ(by_rule_.count(name), 1U) << name;
  }
  // What the releases leave out as well is in no list, except compressed-tensors'.
  EXPECT_THAT(selection.modules_to_not_convert, IsEmpty());
  EXPECT_THAT(
      selection.linears_left,
      ElementsAre("model.layers.0.self_attn.indexer.weights_proj",
                  "model.layers.1.self_attn.indexer.weights_proj", "model.layers.1.mlp.gate",
                  "lm_head", "model.layers.2.self_attn.indexer.weights_proj",
                  "model.layers.2.mlp.gate", "model.layers.2.eh_proj",
                  "model.layers.2.shared_head.head"));
}

TEST_F(SelectionTest, FollowsTheModelBehindAPrefix) {
  std::set<std::string> expected;
  for (const std::string& name : by_rule_) expected.insert("language_model." + name);
  for (CatalogTensor& tensor : tensors_) tensor.name = "language_model." + tensor.name;
  Add("vision.proj.weight", Dtype::kBF16, {8, 8});
  Add("vision.norm.weight", Dtype::kBF16, {8});
  const TensorSelection selection = Select();
  EXPECT_EQ(Names(selection), expected);
  EXPECT_THAT(selection.modules_to_not_convert, ElementsAre("vision.proj"));
}

TEST_F(SelectionTest, TakesFusedExperts) {
  std::set<std::string> expected;
  std::vector<CatalogTensor> kept;
  for (const CatalogTensor& tensor : tensors_) {
    if (tensor.name.find(".experts.") != std::string::npos) continue;
    kept.push_back(tensor);
    if (by_rule_.count(tensor.name) != 0) expected.insert(tensor.name);
  }
  tensors_ = kept;
  for (const std::string layer : {"1", "2"}) {
    const std::string experts = "model.layers." + layer + ".mlp.experts.";
    Add(experts + "gate_up_proj", Dtype::kF32, {4, 12, 8});
    Add(experts + "down_proj", Dtype::kF32, {4, 8, 6});
    expected.insert({experts + "gate_up_proj", experts + "down_proj"});
  }
  EXPECT_EQ(Names(Select()), expected);
}

TEST_F(SelectionTest, ListsWhatElseIsLeftOut) {
  options_.exclude = {"model.layers.1.self_attn.kv_*"};
  const TensorSelection selection = Select({"layers.0.mlp", "eh_proj"});
  std::set<std::string> expected;
  for (const std::string& name : by_rule_) {
    if (name.find("layers.0.mlp.") != std::string::npos) continue;
    if (name.find("layers.1.self_attn.kv_") != std::string::npos) continue;
    expected.insert(name);
  }
  EXPECT_EQ(Names(selection), expected);
  EXPECT_THAT(selection.modules_to_not_convert,
              ElementsAre("layers.0.mlp", "eh_proj", "model.layers.1.self_attn.kv_a_proj_with_mqa",
                          "model.layers.1.self_attn.kv_b_proj"));
}

TEST_F(SelectionTest, ReplacesEntriesThatNameWhatIsIncluded) {
  options_.include = {"model.layers.0.mlp.up_proj.weight"};
  const TensorSelection selection = Select({"layers.0.mlp"});
  EXPECT_THAT(selection.modules_to_not_convert,
              ElementsAre("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.down_proj"));
}

TEST_F(SelectionTest, NamesTheScaleOfAnotherFormOfAnFp8Weight) {
  CatalogTensor& first = *std::find_if(tensors_.begin(), tensors_.end(), [](const auto& tensor) {
    return tensor.name == "model.layers.0.mlp.up_proj.weight";
  });
  first.dtype = Dtype::kF8E4M3;
  dsv3::testing::ExpectBadInput([&] { Select(); }, "up_proj.weight_scale_inv", "means nothing");
  Add("model.layers.0.mlp.up_proj.weight_scale", Dtype::kF32, {16, 1});
  dsv3::testing::ExpectBadInput([&] { Select(); }, "its scale is called",
                                "'model.layers.0.mlp.up_proj.weight_scale'",
                                "one in which this weight is BF16");
}

TEST_F(SelectionTest, RefusesIntegersScalesOfOthersEmptyTensorsAndNarrowBlocks) {
  CatalogTensor& first = *std::find_if(tensors_.begin(), tensors_.end(), [](const auto& tensor) {
    return tensor.name == "model.layers.0.mlp.up_proj.weight";
  });
  first.dtype = Dtype::kI32;
  dsv3::testing::ExpectBadInput([&] { Select(); }, first.name, "is I32", "BF16, F16 or F32");
  first.dtype = Dtype::kBF16;
  Add("model.layers.0.mlp.up_proj.weight_scale_inv", Dtype::kF32, {1, 1});
  dsv3::testing::ExpectBadInput([&] { Select(); }, "up_proj.weight_scale_inv", "converted in part");
  tensors_.pop_back();
  Add("empty.weight", Dtype::kBF16, {0, 4});
  options_.include = {"empty.weight"};
  dsv3::testing::ExpectBadInput([&] { Select(); }, "'empty.weight'", "no elements");
  tensors_.pop_back();
  Add("wide.weight", Dtype::kBF16, {1, (1 << 18) + 1});
  options_.include = {"wide.weight"};
  form_.block.shape = {1, 1};
  const Error error = dsv3::testing::ErrorOf([&] { Select(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("give a wider block"));
}

}  // namespace
}  // namespace dsv3::convert
