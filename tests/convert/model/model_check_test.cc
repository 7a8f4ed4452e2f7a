#include "convert/model/model_check.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/model/expected_tensors.h"
#include "convert/model/scaled_weights.h"
#include "tests/convert/model/configs.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

ModelConfig Parse(const json& config) { return ParseModelConfig(config.dump(), "config.json"); }

Catalog MakeCatalog(const std::vector<ExpectedTensor>& tensors, const std::string& prefix = "",
                    Dtype dtype = Dtype::kBF16) {
  std::vector<CatalogTensor> result;
  for (const auto& tensor : tensors) {
    result.push_back({prefix + tensor.name, dtype, tensor.shape, {}});
  }
  SourceFile file;
  file.name = "model.safetensors";
  return Catalog({file}, std::move(result));
}

TEST(CheckAgainstModel, FindsNothingInACompleteCheckpoint) {
  const ModelConfig config = Parse(testing::SmallConfig());
  EXPECT_THAT(CheckAgainstModel(config, MakeCatalog(ExpectedTensors(config))), IsEmpty());
}

TEST(CheckAgainstModel, IgnoresTensorsBeyondTheExpected) {
  const ModelConfig config = Parse(testing::SmallConfig());
  auto tensors = ExpectedTensors(config);
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {1}});
  EXPECT_THAT(CheckAgainstModel(config, MakeCatalog(tensors)), IsEmpty());
}

TEST(CheckAgainstModel, AcceptsACommonPrefix) {
  const ModelConfig config = Parse(testing::SmallConfig());
  const auto tensors = ExpectedTensors(config);
  EXPECT_THAT(CheckAgainstModel(config, MakeCatalog(tensors, "language_model.")), IsEmpty());
}

// Experts as transformers fuses them, in every layer that has them.
std::vector<ExpectedTensor> FuseExperts(const ModelConfig& config) {
  std::vector<ExpectedTensor> result;
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    const std::size_t experts = tensor.name.find(".experts.");
    if (experts == std::string::npos) {
      result.push_back(tensor);
    } else if (tensor.name.find(".experts.0.gate_proj") != std::string::npos) {
      const std::string layer = tensor.name.substr(0, experts + 9);
      const std::uint64_t rows = tensor.shape[0];
      const std::uint64_t cols = tensor.shape[1];
      result.push_back({layer + "gate_up_proj", {config.n_routed_experts, 2 * rows, cols}});
      result.push_back({layer + "down_proj", {config.n_routed_experts, cols, rows}});
    }
  }
  return result;
}

// Packed codes of fused experts, which no form that is known has.
TEST(CheckAgainstModel, CallsIntegersOfAnotherShapeCodes) {
  const ModelConfig config = Parse(testing::SmallConfig());
  std::vector<CatalogTensor> tensors;
  std::size_t packed = 0;
  for (const ExpectedTensor& tensor : FuseExperts(config)) {
    tensors.push_back({tensor.name, Dtype::kBF16, tensor.shape, {}});
    if (!tensor.name.ends_with("gate_up_proj")) continue;
    ++packed;
    tensors.back().dtype = Dtype::kU8;
    tensors.back().shape.back() /= 2;
  }
  SourceFile file;
  file.name = "model.safetensors";
  const formats::Findings findings = CheckAgainstModel(config, Catalog({file}, std::move(tensors)));
  ASSERT_EQ(findings.size(), packed);
  ASSERT_GT(packed, 0U);
  for (const formats::Finding& finding : findings) {
    EXPECT_EQ(finding.kind, "wrong-shape");
    EXPECT_THAT(finding.message, AllOf(HasSubstr("gate_up_proj' is U8 ["),
                                       HasSubstr("holds codes in a form that is not known here"),
                                       ::testing::Not(HasSubstr("another model"))));
  }
}

TEST(CheckAgainstModel, AcceptsFusedExperts) {
  const ModelConfig config = Parse(testing::SmallConfig());
  const auto tensors = FuseExperts(config);
  ASSERT_LT(tensors.size(), ExpectedTensors(config).size());
  EXPECT_THAT(CheckAgainstModel(config, MakeCatalog(tensors)), IsEmpty());
}

TEST(CheckAgainstModel, ReportsAWrongShapeOfFusedExpertsOnce) {
  const ModelConfig config = Parse(testing::SmallConfig());
  auto tensors = FuseExperts(config);
  std::string spoilt;
  for (ExpectedTensor& tensor : tensors) {
    if (!tensor.name.ends_with(".gate_up_proj")) continue;
    ++tensor.shape[1];
    spoilt = tensor.name;
    break;
  }
  const auto findings = CheckAgainstModel(config, MakeCatalog(tensors));
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].kind, "wrong-shape");
  EXPECT_EQ(findings[0].tensor, spoilt);
}

TEST(CheckAgainstModel, ReportsEveryMissingTensorInOrder) {
  const ModelConfig config = Parse(testing::SmallConfig());
  auto tensors = ExpectedTensors(config);
  std::erase_if(tensors, [](const auto& t) {
    return t.name == "lm_head.weight" || t.name == "model.layers.0.mlp.up_proj.weight";
  });
  const auto findings = CheckAgainstModel(config, MakeCatalog(tensors));
  ASSERT_THAT(findings, SizeIs(2));
  EXPECT_EQ(findings[0].kind, "missing-tensor");
  EXPECT_EQ(findings[0].severity, formats::Severity::kError);
  EXPECT_EQ(findings[0].tensor, "model.layers.0.mlp.up_proj.weight");
  EXPECT_THAT(findings[0].message, HasSubstr("[12, 8]"));
  EXPECT_EQ(findings[1].tensor, "lm_head.weight");
}

TEST(CheckAgainstModel, CallsNothingIncompleteThatIsQuantisedInAFormNotKnown) {
  json changes = testing::SmallConfig();
  changes["quantization_config"] = {{"quant_method", "hqq"}};
  const ModelConfig config = Parse(changes);
  auto tensors = ExpectedTensors(config);
  for (auto& tensor : tensors) {
    if (tensor.name == "model.layers.0.mlp.up_proj.weight") {
      tensor.name = "model.layers.0.mlp.up_proj.W_q";
    }
  }
  const auto findings = CheckAgainstModel(config, MakeCatalog(tensors));
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_THAT(
      findings[0].message,
      AllOf(HasSubstr("quantised by 'hqq', a form that is not known here"),
            ::testing::Not(HasSubstr("incomplete")), ::testing::Not(HasSubstr("another model"))));
}

// A vocabulary as large as another matrix is high.
TEST(CheckAgainstModel, NamesTheVocabularyForEmbeddingAndHeadAlone) {
  json changes = testing::SmallConfig();
  const ModelConfig config = Parse(changes);
  auto tensors = ExpectedTensors(config);
  std::uint64_t rows = 0;
  for (auto& tensor : tensors) {
    if (tensor.name == "model.layers.0.self_attn.kv_a_proj_with_mqa.weight") {
      rows = tensor.shape[0]++;
    }
  }
  changes["vocab_size"] = rows;
  for (auto& tensor : tensors) {
    if (tensor.name == "model.embed_tokens.weight") tensor.shape[0] = rows + 7;
  }
  std::map<std::string, std::string> messages;
  for (const auto& finding : CheckAgainstModel(Parse(changes), MakeCatalog(tensors))) {
    messages[finding.tensor] = finding.message;
  }
  EXPECT_THAT(messages["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"],
              AllOf(HasSubstr("has shape"), ::testing::Not(HasSubstr("vocab_size"))));
  EXPECT_THAT(messages["model.embed_tokens.weight"],
              HasSubstr("vocab_size " + std::to_string(rows + 7) + " would fit"));
}

// The message about the first missing tensor of a layer when the checkpoint was made with `made`
// and the config says `says`; "" where nothing of it is missing.
std::string MessageOfLayer(const json& made, const json& says, std::uint32_t layer) {
  const auto with = [](const json& changes) {
    json config = testing::SmallConfig();
    config.update(changes);
    return Parse(config);
  };
  const Catalog catalog = MakeCatalog(ExpectedTensors(with(made)));
  const std::string start = "model.layers." + std::to_string(layer) + ".";
  for (const auto& finding : CheckAgainstModel(with(says), catalog)) {
    if (finding.kind == "missing-tensor" && finding.tensor.starts_with(start)) {
      return finding.message;
    }
  }
  return "";
}

TEST(CheckAgainstModel, NamesTheLayerCountsThatWouldFit) {
  const auto layers = [](int main, int mtp) {
    return json{{"num_hidden_layers", main}, {"num_nextn_predict_layers", mtp}};
  };
  EXPECT_THAT(MessageOfLayer(layers(2, 0), layers(3, 0), 2),
              HasSubstr("set num_hidden_layers to 2 if the model was made smaller"));
  EXPECT_THAT(MessageOfLayer(layers(2, 1), layers(2, 3), 3),
              HasSubstr("set num_nextn_predict_layers to 1 if"));
  // The MTP layer is layer 2, whatever the config calls it.
  for (const std::uint32_t layer : {3U, 4U}) {
    EXPECT_THAT(MessageOfLayer(layers(2, 1), layers(4, 1), layer),
                HasSubstr(", or set num_hidden_layers to 2: so many are there"));
  }
  // Layer 2 is a main layer, which the config takes for an MTP layer.
  EXPECT_THAT(MessageOfLayer(layers(4, 1), layers(2, 1), 2),
              HasSubstr(", or set num_hidden_layers to 4: so many are there"));
  EXPECT_THAT(MessageOfLayer(layers(4, 0), layers(2, 1), 2),
              HasSubstr("set num_hidden_layers to 4 and num_nextn_predict_layers to 0"));
}

TEST(CheckAgainstModel, SaysWhichLayerIsThereInPart) {
  const ModelConfig config = Parse(testing::SmallConfig());
  for (const std::string part : {"model.layers.1.mlp.experts.3.", "model.layers.2.enorm"}) {
    auto tensors = ExpectedTensors(config);
    const auto lost =
        std::erase_if(tensors, [&](const auto& t) { return t.name.starts_with(part); });
    const auto findings = CheckAgainstModel(config, MakeCatalog(tensors));
    ASSERT_EQ(findings.size(), lost);
    for (const auto& finding : findings) {
      EXPECT_THAT(finding.message,
                  AllOf(HasSubstr(lost == 1 ? "; layer 2 is there in part, 1 of its "
                                            : "; layer 1 is there in part, 3 of its "),
                        ::testing::Not(HasSubstr("set num_"))));
    }
  }
  EXPECT_THAT(MessageOfLayer(testing::SmallConfig(), {{"num_nextn_predict_layers", 2}}, 3),
              ::testing::Not(HasSubstr("in part")));
}

TEST(CheckAgainstModel, ReportsWrongShapes) {
  const ModelConfig config = Parse(testing::SmallConfig());
  auto tensors = ExpectedTensors(config);
  for (auto& tensor : tensors) {
    if (tensor.name == "model.norm.weight") tensor.shape = {8, 1};
    if (tensor.name == "lm_head.weight") tensor.shape = {32, 9};
  }
  const auto findings = CheckAgainstModel(config, MakeCatalog(tensors));
  ASSERT_THAT(findings, SizeIs(2));
  EXPECT_EQ(findings[0].kind, "wrong-shape");
  EXPECT_EQ(findings[0].file, "model.safetensors");
  EXPECT_THAT(findings[0].message,
              AllOf(HasSubstr("'model.norm.weight' has shape [8, 1]"), HasSubstr("predicts [8]")));
  EXPECT_EQ(findings[1].tensor, "lm_head.weight");
}

TEST(CheckAgainstModel, AcceptsPackedWeightsOfOtherQuantisations) {
  json json_config = testing::SmallConfig();
  json_config["quantization_config"] = {{"quant_method", "compressed-tensors"}};
  const ModelConfig config = Parse(json_config);
  auto tensors = ExpectedTensors(config);
  for (auto& tensor : tensors) {
    if (tensor.role != TensorRole::kExpertLinear) continue;
    tensor.name += "_packed";
    tensor.shape[1] = (tensor.shape[1] + 1) / 2;
  }
  EXPECT_THAT(CheckAgainstModel(config, MakeCatalog(tensors, "", Dtype::kU8)), IsEmpty());
  // The tensors say it, whatever the config says.
  const ModelConfig fp8 = Parse(testing::SmallConfig());
  EXPECT_THAT(CheckAgainstModel(fp8, MakeCatalog(tensors, "", Dtype::kU8)), IsEmpty());
  EXPECT_THAT(CheckAgainstModel(fp8, MakeCatalog(tensors)), SizeIs(24));
}

TEST(CheckAgainstModel, WarnsOfUnknownModelTypes) {
  const auto findings = CheckAgainstModel(Parse({{"model_type", "llama"}}), MakeCatalog({}));
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].kind, "unknown-model-type");
  EXPECT_EQ(findings[0].severity, formats::Severity::kWarning);
  EXPECT_THAT(findings[0].message, HasSubstr("'llama'"));
}

// V4's Base models: FP8 experts with F32 scales.
TEST(CheckAgainstModel, TakesF32ScalesOfV4) {
  json config = testing::V4FlashConfig();
  config.update({{"num_hidden_layers", 3}, {"n_routed_experts", 2}, {"expert_dtype", "fp8"}});
  const ModelConfig parsed = Parse(config);
  std::vector<CatalogTensor> tensors;
  for (const ExpectedTensor& tensor : ExpectedTensors(parsed)) {
    if (!IsQuantized(tensor.role)) {
      tensors.push_back({tensor.name, Dtype::kBF16, tensor.shape, {}});
      continue;
    }
    tensors.push_back({tensor.name, Dtype::kF8E4M3, tensor.shape, {}});
    const Shape grid = {(tensor.shape[0] + 127) / 128, (tensor.shape[1] + 127) / 128};
    const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
    tensors.push_back({module + ".scale", Dtype::kF32, grid, {}});
  }
  SourceFile file;
  file.name = "model.safetensors";
  const Catalog catalog({file}, std::move(tensors));
  EXPECT_THAT(CheckAgainstModel(parsed, catalog), IsEmpty());
  const ScaledWeights scaled = FindScaledWeights(catalog, parsed);
  EXPECT_THAT(scaled.findings, IsEmpty());
  EXPECT_THAT(scaled.pairs, SizeIs(::testing::Gt(50)));
}

}  // namespace
}  // namespace dsv3::convert
