#include <cstdint>
#include <filesystem>
#include <string>

#include <fmt/format.h>

#include "convert/model/model_config.h"
#include "formats/json/json_edit.h"
#include "tests/convert/verify/structure_test.h"

// Tensors against what config.json says of them.
namespace dsv3::testing {
namespace {

using formats::Dtype;
using formats::Severity;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kNorm[] = "model.layers.0.input_layernorm.weight";
constexpr char kLinear[] = "model.layers.0.self_attn.o_proj.weight";
constexpr char kRouterBias[] = "model.layers.1.mlp.gate.e_score_correction_bias";

class StructureModelTest : public StructureTest {
 protected:
  void Retype(const std::string& name, Dtype dtype) {
    const TinyTensor old = checkpoint_.Find(name);
    checkpoint_.Drop(name);
    checkpoint_.Add(old.shard, name, dtype, old.shape);
  }
  // Every FP8 weight becomes BF16, without scales.
  void Dequantize() {
    checkpoint_.DropContaining("_scale_inv");
    for (TinyTensor& tensor : checkpoint_.tensors) {
      if (tensor.dtype != Dtype::kF8E4M3) continue;
      tensor.dtype = Dtype::kBF16;
      tensor.bytes += tensor.bytes;
    }
  }
  void ExpectWrongDtype(const std::string& name, const std::string& expected) {
    const formats::Finding finding = OnlyFinding();
    EXPECT_EQ(finding.kind, "wrong-dtype") << finding.message;
    EXPECT_EQ(finding.severity, Severity::kError);
    EXPECT_EQ(finding.tensor, name);
    EXPECT_EQ(finding.file, checkpoint_.Find(name).shard);
    EXPECT_THAT(finding.message, AllOf(HasSubstr("'" + name + "'"), HasSubstr(expected),
                                       HasSubstr("download the file again")));
  }
};

TEST_F(StructureModelTest, AWholeCheckpointHasNoFinding) {
  Write();
  const convert::StructureReport report = Verify();
  EXPECT_THAT(Lines(report.verification.findings), IsEmpty());
  EXPECT_TRUE(report.verification.Passes(/*strict=*/true));
  EXPECT_EQ(report.verification.check, "structure");
  EXPECT_THAT(report.verification.files,
              ElementsAre("config.json", kTinyShard1, kTinyShard2, kTinyShard3, kTinyShard4,
                          "model.safetensors.index.json"));
  EXPECT_EQ(report.directory, in());
  EXPECT_EQ(report.model_type, "deepseek_v32");
  EXPECT_TRUE(report.known_model);
  EXPECT_EQ(report.tensors, checkpoint_.tensors.size());
  std::uint64_t bytes = 0;
  for (const TinyTensor& tensor : checkpoint_.tensors) bytes += tensor.bytes.size();
  EXPECT_EQ(report.tensor_bytes, bytes);
  EXPECT_EQ(report.tensors - report.expected_tensors, checkpoint_.DropContaining("_scale_inv"));
}

TEST_F(StructureModelTest, FindsAMissingTensor) {
  ASSERT_EQ(checkpoint_.DropContaining(kNorm), 1U);
  const formats::Finding finding = OnlyFinding();
  EXPECT_EQ(finding.kind, "missing-tensor");
  EXPECT_EQ(finding.severity, Severity::kError);
  EXPECT_EQ(finding.tensor, kNorm);
  EXPECT_THAT(finding.message, AllOf(HasSubstr("predicts it with shape [8]"),
                                     HasSubstr("download what is missing")));
}

// Each weight becomes codes, a scale and a zero point, of which a norm has none.
TEST_F(StructureModelTest, ListsOneWeightOfAQuantisationThatIsNotKnown) {
  checkpoint_.DropContaining("_scale_inv");
  SetConfig("quantization_config", R"({"quant_method": "hqq"})");
  std::size_t weights = 0;
  for (std::size_t i = 0; i < checkpoint_.tensors.size(); ++i) {
    TinyTensor& tensor = checkpoint_.tensors[i];
    if (tensor.dtype != Dtype::kF8E4M3) continue;
    ++weights;
    const std::string shard = tensor.shard;
    const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
    tensor.name = module + ".W_q";
    tensor.dtype = Dtype::kU8;
    for (const char* const part : {".scale", ".zero"}) {
      checkpoint_.Add(shard, module + part, Dtype::kF16, {4, 1});
    }
  }
  const formats::Finding finding = OnlyFinding();
  EXPECT_EQ(finding.kind, "missing-tensor");
  EXPECT_THAT(finding.message,
              AllOf(HasSubstr("quantised by 'hqq', a form that is not known here"),
                    HasSubstr(fmt::format("({} more such weights)", weights - 1))));
  ASSERT_EQ(checkpoint_.DropContaining(kNorm), 1U);
  EXPECT_EQ(Findings().size(), 2U);
}

TEST_F(StructureModelTest, FindsEveryTensorOfAMissingMtpLayer) {
  const std::size_t all = checkpoint_.tensors.size();
  checkpoint_.DropContaining("model.layers.2.");
  const std::size_t scales = 3 + 3 + 2 + 15;  // none of them is predicted without its weight
  const formats::Findings findings = Findings();
  EXPECT_GT(findings.size(), 30U);
  EXPECT_LT(findings.size(), all - checkpoint_.tensors.size() - scales + 5);
  for (const formats::Finding& finding : findings) {
    EXPECT_EQ(finding.kind, "missing-tensor");
    EXPECT_THAT(finding.tensor, ::testing::StartsWith("model.layers.2."));
    EXPECT_THAT(finding.message, HasSubstr("set num_nextn_predict_layers to 0"));
  }
  SetConfig("num_nextn_predict_layers", "0");
  EXPECT_THAT(Lines(Findings()), IsEmpty());
}

TEST_F(StructureModelTest, NamesTheNumberOfMtpLayersThatAreThere) {
  SetConfig("num_nextn_predict_layers", "3");
  for (const formats::Finding& finding : Findings()) {
    EXPECT_EQ(finding.kind, "missing-tensor");
    EXPECT_THAT(finding.message, HasSubstr("set num_nextn_predict_layers to 1 if"));
  }
  SetConfig("num_nextn_predict_layers", "0");
  const formats::Findings findings = Findings();
  EXPECT_FALSE(findings.empty());
  for (const formats::Finding& finding : findings) {
    if (finding.kind != "unexpected-tensor") continue;
    EXPECT_THAT(finding.message,
                HasSubstr("set num_nextn_predict_layers to 1, as many as are there"));
  }
}

TEST_F(StructureModelTest, NamesTheNumberOfLayersWhereTheConfigLeavesSomeOut) {
  SetConfig("num_hidden_layers", "1");
  SetConfig("num_nextn_predict_layers", "0");
  int unexpected = 0;
  for (const formats::Finding& finding : Findings()) {
    if (finding.kind != "unexpected-tensor") continue;
    ++unexpected;
    EXPECT_THAT(finding.message,
                HasSubstr("set num_hidden_layers to 2 and num_nextn_predict_layers to 1, as many "
                          "as are there"));
  }
  EXPECT_GT(unexpected, 0);
}

// Setting the field would lose the rest of the layer.
TEST_F(StructureModelTest, NamesNoNumberOfLayersWhereALayerIsThereInPart) {
  ASSERT_EQ(checkpoint_.DropContaining("model.layers.2.enorm.weight"), 1U);
  EXPECT_THAT(OnlyFinding().message, Not(HasSubstr("num_nextn_predict_layers")));
}

TEST_F(StructureModelTest, AHeadThatATiedModelHasIsNotToBeLeftOut) {
  SetConfig("tie_word_embeddings", "true");
  const formats::Finding head = OnlyFinding();
  EXPECT_EQ(head.kind, "unexpected-tensor");
  EXPECT_THAT(head.message, AllOf(HasSubstr("set it to false"), Not(HasSubstr("leave it out"))));
}

TEST_F(StructureModelTest, NamesTheFieldsThatWouldFitHeadAndVocabulary) {
  checkpoint_.DropContaining("lm_head.weight");
  const formats::Finding head = OnlyFinding();
  EXPECT_EQ(head.tensor, "lm_head.weight");
  EXPECT_THAT(head.message, HasSubstr("set tie_word_embeddings to true if"));
  SetConfig("tie_word_embeddings", "true");
  SetConfig("vocab_size", "7");
  for (const formats::Finding& finding : Findings()) {
    EXPECT_EQ(finding.kind, "wrong-shape");
    EXPECT_THAT(finding.message, HasSubstr("; vocab_size 32 would fit this tensor"));
  }
}

// The index that came with the files is of another division into shards.
TEST_F(StructureModelTest, NamesFilesThatHoldWhatTheIndexListsElsewhere) {
  std::string index = checkpoint_.IndexText();
  const std::string other = "model-00009-of-00009.safetensors";
  for (std::size_t at = index.find(kTinyShard3); at != std::string::npos;
       at = index.find(kTinyShard3)) {
    index.replace(at, other.size(), other);
  }
  checkpoint_.index_text = index;
  bool found = false;
  for (const formats::Finding& finding : Findings()) {
    if (finding.kind != "missing-shard") continue;
    found = true;
    EXPECT_EQ(finding.file, other);
    EXPECT_THAT(finding.message, AllOf(HasSubstr("; the index is of another division into files"),
                                       HasSubstr(std::string("such as ") + kTinyShard3),
                                       Not(HasSubstr("download"))));
  }
  EXPECT_TRUE(found);
}

TEST_F(StructureModelTest, NamesAFileBesideTheIndexThatHoldsAMissingLayer) {
  const std::string mtp = checkpoint_.ShardBytes(kTinyShard3);
  checkpoint_.DropContaining("model.layers.2.");
  checkpoint_.side_files["mtp.safetensors"] = mtp;
  bool found = false;
  for (const formats::Finding& finding : Findings()) {
    if (finding.kind != "missing-tensor") continue;
    found = true;
    EXPECT_THAT(finding.message, HasSubstr("; mtp.safetensors holds it and lies beside"));
  }
  EXPECT_TRUE(found);
}

TEST_F(StructureModelTest, FindsAMissingIndexer) {
  EXPECT_EQ(checkpoint_.DropContaining("model.layers.1.self_attn.indexer."), 7U);
  EXPECT_THAT(Lines(Findings()),
              ElementsAre("missing-tensor  model.layers.1.self_attn.indexer.wq_b.weight",
                          "missing-tensor  model.layers.1.self_attn.indexer.wk.weight",
                          "missing-tensor  model.layers.1.self_attn.indexer.k_norm.weight",
                          "missing-tensor  model.layers.1.self_attn.indexer.k_norm.bias",
                          "missing-tensor  model.layers.1.self_attn.indexer.weights_proj.weight"));
}

TEST_F(StructureModelTest, FindsAWrongShape) {
  checkpoint_.Find(kNorm).shape = {2, 4};
  const formats::Finding finding = OnlyFinding();
  EXPECT_EQ(finding.kind, "wrong-shape");
  EXPECT_EQ(finding.file, kTinyShard1);
  EXPECT_THAT(finding.message, AllOf(HasSubstr("has shape [2, 4]"), HasSubstr("predicts [8]"),
                                     HasSubstr("take both from one place")));
}

TEST_F(StructureModelTest, FindsARouterBiasThatIsNotF32) {
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF16, Dtype::kF64}) {
    SCOPED_TRACE(formats::DtypeName(dtype));
    Retype(kRouterBias, dtype);
    ExpectWrongDtype(kRouterBias, "expected F32, as router biases always are");
  }
}

TEST_F(StructureModelTest, FindsANormThatIsNoFloat) {
  for (const Dtype dtype : {Dtype::kI16, Dtype::kF64, Dtype::kU8, Dtype::kF8E8M0}) {
    SCOPED_TRACE(formats::DtypeName(dtype));
    Retype(kNorm, dtype);
    ExpectWrongDtype(kNorm, "expected BF16 or F32 (torch_dtype is bfloat16)");
  }
}

// They take the same bytes, so that one is a label on the other's values.
TEST_F(StructureModelTest, FindsF16WhereTheConfigSaysBfloat16AndTheReverse) {
  Retype(kNorm, Dtype::kF16);
  ExpectWrongDtype(kNorm, "expected BF16 or F32 (torch_dtype is bfloat16)");
  SetConfig("torch_dtype", "\"float32\"");
  EXPECT_THAT(Lines(Findings()), IsEmpty());
  for (TinyTensor& tensor : checkpoint_.tensors) {
    if (tensor.dtype == Dtype::kBF16) tensor.dtype = Dtype::kF16;
  }
  Retype(kNorm, Dtype::kBF16);
  checkpoint_.config = formats::RemoveJsonMember(checkpoint_.config, "torch_dtype", "config.json");
  SetConfig("dtype", "\"float16\"");
  ExpectWrongDtype(kNorm, "expected F16 or F32 (torch_dtype is float16)");
}

// As casting the FP8 form of an F16 checkpoint to BF16 leaves it.
TEST_F(StructureModelTest, TakesF16WhereverReleasesAreNotQuantised) {
  for (TinyTensor& tensor : checkpoint_.tensors) {
    if (tensor.dtype == Dtype::kBF16) tensor.dtype = Dtype::kF16;
  }
  EXPECT_THAT(Lines(Findings()), IsEmpty());
  Dequantize();
  checkpoint_.config =
      formats::RemoveJsonMember(checkpoint_.config, "quantization_config", "config.json");
  std::filesystem::remove(in() / kTinyShard4);  // which held scales alone
  EXPECT_THAT(Lines(Findings()), IsEmpty());
  Retype(kNorm, Dtype::kF32);
  EXPECT_THAT(Lines(Findings()), IsEmpty());
  const TinyCheckpoint whole = checkpoint_;
  Retype(kLinear, Dtype::kF16);
  EXPECT_THAT(Lines(Findings()),
              Contains(std::string("wrong-dtype ") + kTinyShard1 + " " + "model.norm.weight"));
  checkpoint_ = whole;
  Retype(kNorm, Dtype::kBF16);
  EXPECT_THAT(Lines(Findings()),
              Contains(std::string("wrong-dtype ") + kTinyShard1 + " " + "model.norm.weight"));
}

TEST_F(StructureModelTest, TakesF32WhereverWeightsArePlain) {
  Retype(kNorm, Dtype::kF32);
  Retype("model.layers.0.self_attn.indexer.weights_proj.weight", Dtype::kF32);
  EXPECT_THAT(Lines(Findings()), IsEmpty());
}

TEST_F(StructureModelTest, FindsAPlainWeightAmongFp8OnesUnlessTheConfigLeavesItOut) {
  checkpoint_.DropContaining(std::string(kLinear) + "_scale_inv");
  Retype(kLinear, Dtype::kBF16);
  ExpectWrongDtype(kLinear, "is BF16, expected F8_E4M3 (quantization_config)");
  for (const std::string listed : {"model.layers.0.self_attn.o_proj", "o_proj", "model.layers.0",
                                   "self_attn", "layers.0.self_attn"}) {
    SCOPED_TRACE(listed);
    TinyCheckpoint exempt = checkpoint_;
    exempt.config =
        formats::ReplaceJsonMember(exempt.config, "quantization_config",
                                   R"({"quant_method": "fp8", "weight_block_size": [4, 8],
                                       "modules_to_not_convert": ["lm_head", ")" +
                                       listed + "\"]}",
                                   "config.json");
    exempt.Write(in());
    EXPECT_THAT(Lines(Verify().verification.findings),
                ::testing::Not(Contains(HasSubstr(kLinear))));
  }
  SetConfig("quantization_config",
            R"({"quant_method": "fp8", "weight_block_size": [4, 8],
                "modules_to_not_convert": ["proj", "layers.9", "model.layers.0.self_attn.o"]})");
  ExpectWrongDtype(kLinear, "expected F8_E4M3");
}

TEST_F(StructureModelTest, FindsAnFp8WeightThatTheConfigLeavesOut) {
  SetConfig("quantization_config",
            R"({"quant_method": "fp8", "weight_block_size": [4, 8],
                "modules_to_not_convert": ["model.layers.0.self_attn.o_proj"]})");
  ExpectWrongDtype(kLinear, "modules_to_not_convert names it");
}

TEST_F(StructureModelTest, TakesIgnoredLayersAsModulesNotToConvert) {
  const std::string ignored = R"({"quant_method": "fp8", "weight_block_size": [4, 8],
                                  "ignored_layers": ["model.layers.0.self_attn.o_proj"]})";
  SetConfig("quantization_config", ignored);
  ExpectWrongDtype(kLinear, "is F8_E4M3, expected no FP8: ignored_layers names it");
  checkpoint_.DropContaining(std::string(kLinear) + "_scale_inv");
  Retype(kLinear, Dtype::kBF16);
  EXPECT_THAT(Lines(Findings()), IsEmpty());
}

TEST_F(StructureModelTest, FindsAnFp8FormatThatIsNotTheConfigs) {
  Retype(kLinear, Dtype::kF8E5M2);
  ExpectWrongDtype(kLinear, "is F8_E5M2, expected F8_E4M3 (quantization_config)");
}

TEST_F(StructureModelTest, FindsAnFp8Norm) {
  Retype(kNorm, Dtype::kF8E4M3);
  EXPECT_THAT(Lines(Findings()), Contains(std::string("wrong-dtype ") + kTinyShard1 + " " + kNorm));
}

TEST_F(StructureModelTest, OnlyWarnsOfAnFp8Head) {
  Retype("lm_head.weight", Dtype::kF8E4M3);
  checkpoint_.AddScale(kTinyShard1, "lm_head.weight_scale_inv", Dtype::kF32, {8, 1});
  const formats::Finding finding = OnlyFinding();
  EXPECT_EQ(finding.kind, "unexpected-fp8");
  EXPECT_EQ(finding.severity, Severity::kWarning);
  EXPECT_EQ(finding.tensor, "lm_head.weight");
}

TEST_F(StructureModelTest, WarnsOfATensorThatTheConfigDoesNotPredict) {
  checkpoint_.Add(kTinyShard2, "model.layers.1.self_attn.rotary_emb.cos_cached", Dtype::kF32, {2});
  Write();
  const convert::Verification verification = Verify().verification;
  EXPECT_THAT(Lines(verification.findings),
              ElementsAre("warning unexpected-tensor model-00002-of-00004.safetensors "
                          "model.layers.1.self_attn.rotary_emb.cos_cached"));
  EXPECT_THAT(
      verification.findings[0].message,
      AllOf(HasSubstr("does not predict tensor"), HasSubstr("F32 [2]"), HasSubstr("leave it out")));
  EXPECT_TRUE(verification.Passes(/*strict=*/false));
  EXPECT_FALSE(verification.Passes(/*strict=*/true));
}

TEST_F(StructureModelTest, ExpectsRotaryFrequenciesOfTheLayersAlone) {
  const std::string rotary = "self_attn.rotary_emb.inv_freq";
  const std::uint64_t pairs =
      convert::ParseModelConfig(checkpoint_.config, "config.json").qk_rope_head_dim / 2;
  checkpoint_.Add(kTinyShard2, "model.layers.0." + rotary, Dtype::kF32, {pairs});
  checkpoint_.Add(kTinyShard2, "model.layers.1." + rotary, Dtype::kF32, {pairs + 1});
  checkpoint_.Add(kTinyShard2, "model.layers.9." + rotary, Dtype::kF32, {pairs});
  const std::string line = std::string("warning unexpected-tensor ") + kTinyShard2;
  EXPECT_THAT(Lines(Findings()),
              ElementsAre(line + " model.layers.1." + rotary, line + " model.layers.9." + rotary));
}

TEST_F(StructureModelTest, ExpectsNoIndexerInLayersThatShareOne) {
  ASSERT_GT(checkpoint_.DropContaining("model.layers.1.self_attn.indexer."), 0U);
  SetConfig("indexer_types", R"(["full", "shared"])");
  EXPECT_THAT(Lines(Findings()), IsEmpty());
}

TEST_F(StructureModelTest, FindsALostIndexer) {
  ASSERT_GT(checkpoint_.DropContaining("model.layers.1.self_attn.indexer."), 0U);
  SetConfig("indexer_types", R"(["full", "full"])");
  const std::vector<std::string> lines = Lines(Findings());
  EXPECT_THAT(lines, ::testing::SizeIs(5));
  EXPECT_THAT(lines,
              ::testing::Each(HasSubstr("missing-tensor  model.layers.1.self_attn.indexer")));
}

TEST_F(StructureModelTest, NamesIndexerTypesWhereTheConfigSaysNothingOfIndexers) {
  ASSERT_GT(checkpoint_.DropContaining("model.layers.1.self_attn.indexer."), 0U);
  const formats::Findings findings = Findings();
  ASSERT_THAT(findings, ::testing::SizeIs(5));
  EXPECT_THAT(findings[0].message,
              AllOf(HasSubstr("download what is missing"), HasSubstr("(indexer_types)"),
                    HasSubstr("2 layers hold an indexer")));
}

TEST_F(StructureModelTest, WarnsOfAnIndexerThatNothingLoads) {
  SetConfig("index_topk_pattern", R"("FS")");
  const formats::Findings findings = Findings();
  ASSERT_THAT(findings, ::testing::SizeIs(5));
  for (const formats::Finding& finding : findings) {
    EXPECT_EQ(finding.severity, Severity::kWarning);
    EXPECT_EQ(finding.kind, "unexpected-tensor");
    EXPECT_THAT(finding.message, HasSubstr("uses the indexer of a layer before it"));
  }
}

TEST_F(StructureModelTest, AByteOrderMarkInTheConfigIsAFinding) {
  checkpoint_.config = "\xEF\xBB\xBF" + checkpoint_.config;
  const formats::Finding finding = OnlyFinding();
  EXPECT_EQ(finding.kind, "unreadable-config");
  EXPECT_THAT(finding.message, HasSubstr("a byte order mark is not allowed"));
}

TEST_F(StructureModelTest, FindsNumbersOfTheConfigThatAreNotFinite) {
  SetConfig("rms_norm_eps", "NaN");
  const formats::Finding eps = OnlyFinding();
  EXPECT_EQ(eps.kind, "number-not-finite");
  EXPECT_EQ(eps.severity, Severity::kError);
  EXPECT_THAT(eps.message, HasSubstr("'rms_norm_eps' is NaN"));
  SetConfig("rms_norm_eps", "1e-6");
  SetConfig("rope_scaling", R"({"type": "yarn", "factor": -Infinity})");
  EXPECT_THAT(OnlyFinding().message, HasSubstr("'rope_scaling/factor' is -Infinity"));
  // What nothing computes with stays as it is.
  SetConfig("rope_scaling", "null");
  SetConfig("a_note", "[NaN, Infinity]");
  EXPECT_THAT(Lines(Findings()), IsEmpty());
}

TEST_F(StructureModelTest, NamesTheNumberOfDenseLayersThatAreThere) {
  SetConfig("first_k_dense_replace", "0");
  int missing = 0;
  for (const formats::Finding& finding : Findings()) {
    if (finding.kind != "missing-tensor") continue;
    ++missing;
    EXPECT_THAT(finding.message,
                HasSubstr("set first_k_dense_replace to 1: so many layers have a dense MLP"));
  }
  EXPECT_GT(missing, 0);
  SetConfig("first_k_dense_replace", "2");
  EXPECT_THAT(Findings()[0].message, HasSubstr("set first_k_dense_replace to 1"));
  // A layer that is there in part says nothing.
  SetConfig("first_k_dense_replace", "1");
  ASSERT_EQ(checkpoint_.DropContaining("model.layers.0.mlp.up_proj.weight"), 2U);
  EXPECT_THAT(OnlyFinding().message, Not(HasSubstr("first_k_dense_replace")));
}

TEST_F(StructureModelTest, NamesTheNumberOfExpertsThatAreThere) {
  SetConfig("n_routed_experts", "6");
  int missing = 0;
  int wrong = 0;
  for (const formats::Finding& finding : Findings()) {
    if (finding.kind == "missing-tensor") {
      ++missing;
      EXPECT_THAT(finding.message,
                  HasSubstr("set n_routed_experts to 4: each layer holds so many"));
    } else if (finding.kind == "wrong-shape") {
      ++wrong;
      EXPECT_THAT(finding.message, HasSubstr("; n_routed_experts 4 would fit this tensor"));
    }
  }
  EXPECT_GT(missing, 0);
  EXPECT_GT(wrong, 0);
  // One expert that is lost is to be downloaded.
  SetConfig("n_routed_experts", "4");
  ASSERT_GT(checkpoint_.DropContaining("model.layers.1.mlp.experts.3."), 0U);
  for (const formats::Finding& finding : Findings()) {
    EXPECT_THAT(finding.message, Not(HasSubstr("n_routed_experts")));
  }
}

TEST_F(StructureModelTest, AnMtpLayerThatTheConfigCountsAsAMainOneIsNamedAsThat) {
  SetConfig("num_hidden_layers", "3");
  SetConfig("num_nextn_predict_layers", "0");
  int unexpected = 0;
  for (const formats::Finding& finding : Findings()) {
    if (finding.kind != "unexpected-tensor") continue;
    ++unexpected;
    EXPECT_THAT(finding.message, HasSubstr("it is of an MTP layer: set num_hidden_layers to 2 and "
                                           "num_nextn_predict_layers to 1, as many as are there"));
  }
  EXPECT_GT(unexpected, 0);
}

TEST_F(StructureModelTest, TakesMlpLayerTypesInPlaceOfFirstKDenseReplace) {
  checkpoint_.config =
      formats::RemoveJsonMember(checkpoint_.config, "first_k_dense_replace", "config.json");
  SetConfig("mlp_layer_types", R"(["dense", "sparse"])");
  EXPECT_THAT(Lines(Findings()), IsEmpty());
  SetConfig("mlp_layer_types", R"(["dense", "dense"])");
  EXPECT_THAT(Lines(Findings()), Contains("missing-tensor  model.layers.1.mlp.up_proj.weight"));
  SetConfig("mlp_layer_types", R"(["dense"])");
  const formats::Finding finding = OnlyFinding();
  EXPECT_EQ(finding.kind, "unreadable-config");
  EXPECT_THAT(finding.message, HasSubstr("'mlp_layer_types' has 1 entries"));
}

TEST_F(StructureModelTest, ExpectsScalesOfActivationsBesideFp8WeightsAndOfCaches) {
  const std::string layer = "model.layers.0.self_attn.";
  checkpoint_.Add(kTinyShard2, layer + "q_a_proj.input_scale", Dtype::kF32, {});
  checkpoint_.Add(kTinyShard2, layer + "k_scale", Dtype::kF32, {1});
  const formats::Finding uneven = OnlyFinding();
  EXPECT_EQ(uneven.kind, "uneven-activation-scales");
  EXPECT_EQ(uneven.severity, formats::Severity::kWarning);
  EXPECT_EQ(uneven.tensor, "model.layers.1.self_attn.q_a_proj.weight");
  EXPECT_THAT(uneven.message, AllOf(HasSubstr("0.self_attn.q_a_proj.input_scale'"),
                                    HasSubstr("1 with, 2 without")));
  for (const char* const other : {"1", "2"}) {
    checkpoint_.Add(kTinyShard2,
                    fmt::format("model.layers.{}.self_attn.q_a_proj.input_scale", other),
                    Dtype::kF32, {});
  }
  EXPECT_THAT(Lines(Findings()), ElementsAre());
  // Beside a weight that is BF16, nothing reads it.
  checkpoint_.Add(kTinyShard2, "model.norm.input_scale", Dtype::kF32, {});
  EXPECT_THAT(Lines(Findings()), ElementsAre(std::string("warning unexpected-tensor ") +
                                             kTinyShard2 + " model.norm.input_scale"));
}

TEST_F(StructureModelTest, WarnsOnceOfAnUnpredictedWeightAndItsScale) {
  checkpoint_.Add(kTinyShard2, "extra.weight", Dtype::kF8E4M3, {4, 8});
  checkpoint_.AddScale(kTinyShard2, "extra.weight_scale_inv", Dtype::kF32, {1, 1});
  EXPECT_EQ(OnlyFinding().tensor, "extra.weight");
}

TEST_F(StructureModelTest, JudgesFusedExpertsLikeSingleOnes) {
  ASSERT_GT(checkpoint_.DropContaining("model.layers.1.mlp.experts."), 0U);
  const std::string fused = "model.layers.1.mlp.experts.gate_up_proj";
  checkpoint_.Add(kTinyShard2, fused, Dtype::kF8E4M3, {4, 12, 8});
  checkpoint_.AddScale(kTinyShard2, fused + "_scale_inv", Dtype::kF32, {4, 3, 1});
  const std::string down = "model.layers.1.mlp.experts.down_proj";
  checkpoint_.Add(kTinyShard2, down, Dtype::kF8E4M3, {4, 8, 6});
  checkpoint_.AddScale(kTinyShard2, down + "_scale_inv", Dtype::kF32, {4, 2, 1});
  EXPECT_THAT(Lines(Findings()), IsEmpty());
  checkpoint_.DropContaining(down + "_scale_inv");
  Retype(down, Dtype::kBF16);
  ExpectWrongDtype(down, "is BF16, expected F8_E4M3 (quantization_config)");
  SetConfig("quantization_config", R"({"quant_method": "fp8", "weight_block_size": [4, 8],
                                       "modules_to_not_convert": ["model.layers.1.mlp"]})");
  EXPECT_THAT(Lines(Findings()), Contains(std::string("wrong-dtype ") + kTinyShard2 + " " + fused));
}

TEST_F(StructureModelTest, TakesNamesUnderAPrefix) {
  for (TinyTensor& tensor : checkpoint_.tensors) tensor.name = "language_model." + tensor.name;
  EXPECT_THAT(Lines(Findings()), IsEmpty());
  checkpoint_.DropContaining("model.embed_tokens.weight");
  EXPECT_EQ(OnlyFinding().tensor, "language_model.model.embed_tokens.weight");
}

TEST_F(StructureModelTest, OnlyWarnsOfAnUnknownModelType) {
  checkpoint_ = SmallFp8Checkpoint();
  const formats::Finding finding = OnlyFinding();
  EXPECT_EQ(finding.kind, "unknown-model-type");
  EXPECT_EQ(finding.severity, Severity::kWarning);
  EXPECT_EQ(finding.file, "config.json");
}

TEST_F(StructureModelTest, FindsALeftoverQuantizationConfig) {
  Dequantize();
  const formats::Finding finding = OnlyFinding();
  EXPECT_EQ(finding.kind, "leftover-quantization-config");
  EXPECT_EQ(finding.severity, Severity::kError);
  EXPECT_EQ(finding.file, "config.json");
  EXPECT_THAT(finding.message, HasSubstr("remove quantization_config"));
  checkpoint_.config =
      formats::RemoveJsonMember(checkpoint_.config, "quantization_config", "config.json");
  EXPECT_THAT(Lines(Findings()), IsEmpty());
}

// Where the codes of a method that is not known are there in any integers, nothing is left over.
TEST_F(StructureModelTest, AdvisesNoRemovalOfWhatDescribesCodesThatAreNotKnown) {
  using ::testing::Contains;
  using ::testing::Field;
  const auto left_over =
      Contains(Field(&formats::Finding::kind, std::string("leftover-quantization-config")));
  Dequantize();
  SetConfig("quantization_config", R"({"quant_method": "exl3", "bits": 4})");
  EXPECT_THAT(Findings(), left_over);
  checkpoint_.Add(kTinyShard1, "model.layers.0.self_attn.o_proj.trellis", Dtype::kI16, {4, 4, 64});
  EXPECT_THAT(Findings(), ::testing::Not(left_over));
}

TEST_F(StructureModelTest, FindsAMissingQuantizationConfigOnce) {
  checkpoint_.config =
      formats::RemoveJsonMember(checkpoint_.config, "quantization_config", "config.json");
  const formats::Finding finding = OnlyFinding();
  EXPECT_EQ(finding.kind, "no-quantization-config");
  EXPECT_EQ(finding.severity, Severity::kError);
  EXPECT_EQ(finding.file, "config.json");
}

// Scales that lack their block are not "to be left out".
TEST_F(StructureModelTest, FindsAMissingBlockOfScalesOnce) {
  checkpoint_.config = formats::RemoveJsonMember(
      checkpoint_.config, "quantization_config/weight_block_size", "config.json");
  const TinyTensor scale = checkpoint_.Find(std::string(kLinear) + "_scale_inv");
  checkpoint_.Drop(scale.name);  // one that needs no block
  checkpoint_.AddScale(scale.shard, scale.name, Dtype::kF32, {1, 1});
  EXPECT_THAT(Lines(Findings()), ElementsAre("no-quantization-config config.json "));
}

TEST_F(StructureModelTest, FindsFaultsOfScales) {
  checkpoint_.DropContaining(std::string(kLinear) + "_scale_inv");
  EXPECT_THAT(Lines(Findings()),
              ElementsAre(std::string("missing-scale ") + kTinyShard1 + " " + kLinear));

  checkpoint_ = SmallModelCheckpoint();
  checkpoint_.AddScale(kTinyShard2, "gone.weight_scale_inv", Dtype::kF32, {1, 1});
  EXPECT_THAT(Lines(Findings()), ElementsAre(std::string("scale-without-weight ") + kTinyShard2 +
                                             " gone.weight_scale_inv"));

  checkpoint_ = SmallModelCheckpoint();
  checkpoint_.AddScale(kTinyShard1, std::string(kNorm) + "_scale_inv", Dtype::kF32, {1, 1});
  EXPECT_THAT(Lines(Findings()), ElementsAre(std::string("scale-of-unquantized-weight ") +
                                             kTinyShard1 + " " + kNorm + "_scale_inv"));

  checkpoint_ = SmallModelCheckpoint();
  TinyTensor& scale = checkpoint_.Find("model.layers.0.self_attn.kv_b_proj.weight_scale_inv");
  std::swap(scale.shape.front(), scale.shape.back());
  EXPECT_THAT(Lines(Findings()),
              ElementsAre("wrong-scale-shape " + scale.shard + " " + scale.name));

  checkpoint_ = SmallModelCheckpoint();
  Retype(std::string(kLinear) + "_scale_inv", Dtype::kF64);
  EXPECT_THAT(Lines(Findings()), ElementsAre(std::string("wrong-scale-dtype ") + kTinyShard1 + " " +
                                             kLinear + "_scale_inv"));
}

TEST_F(StructureModelTest, FindsAScaleThatIsInTheIndexAndNotInItsShard) {
  KeepIndex();
  const std::string scale = std::string(kLinear) + "_scale_inv";
  checkpoint_.DropContaining(scale);
  const std::string shard = kTinyShard1;
  // total_size counted it too.
  EXPECT_THAT(Lines(Findings()), ElementsAre("missing-scale " + shard + " " + kLinear,
                                             "tensor-not-in-shard " + shard + " " + scale,
                                             "wrong-total-size model.safetensors.index.json "));
}

TEST_F(StructureModelTest, ListsFaultsOfEveryKindTogetherAndInOrder) {
  checkpoint_.DropContaining(std::string(kLinear) + "_scale_inv");
  checkpoint_.DropContaining("model.norm.weight");
  Retype(kRouterBias, Dtype::kBF16);
  checkpoint_.Find("model.layers.2.hnorm.weight").shape = {4, 2};
  checkpoint_.Add(kTinyShard3, "stray", Dtype::kBF16, {1});
  checkpoint_.index_text =
      formats::ReplaceJsonMember(checkpoint_.IndexText(), "metadata/total_size", "1", "index");
  checkpoint_.Add(kTinyShard2, "unlisted", Dtype::kBF16, {1});
  checkpoint_.Add(kTinyShard4, kNorm, Dtype::kBF16, {8});
  checkpoint_.side_files["x.safetensors.partial"] = "half";
  const std::vector<std::string> lines = Lines(Findings());
  EXPECT_THAT(
      lines, ElementsAre("missing-tensor  model.norm.weight",
                         std::string("missing-scale ") + kTinyShard1 + " " + kLinear,
                         std::string("wrong-dtype ") + kTinyShard2 + " " + kRouterBias,
                         std::string("tensor-not-in-index ") + kTinyShard2 + " unlisted",
                         std::string("warning unexpected-tensor ") + kTinyShard2 + " unlisted",
                         std::string("wrong-shape ") + kTinyShard3 + " model.layers.2.hnorm.weight",
                         std::string("warning unexpected-tensor ") + kTinyShard3 + " stray",
                         std::string("tensor-in-two-shards ") + kTinyShard4 + " " + kNorm,
                         "wrong-total-size model.safetensors.index.json ",
                         "warning unfinished-conversion x.safetensors.partial "));
  EXPECT_EQ(Lines(Findings()), lines);
}

}  // namespace
}  // namespace dsv3::testing
