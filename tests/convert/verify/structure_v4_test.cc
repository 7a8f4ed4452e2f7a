#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/model/expected_tensors.h"
#include "tests/convert/model/configs.h"
#include "tests/convert/verify/structure_test.h"

// DeepSeek-V4's tensors against its config.
namespace dsv3::testing {
namespace {

using formats::Dtype;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

Dtype DtypeOf(convert::TensorRole role) {
  switch (role) {
    case convert::TensorRole::kRouterBias:
    case convert::TensorRole::kF32Parameter:
      return Dtype::kF32;
    case convert::TensorRole::kExpertTable:
      return Dtype::kI64;
    default:
      return Dtype::kBF16;
  }
}

// V4 with dimensions of a few elements, in BF16.
class StructureV4Test : public StructureTest {
 protected:
  StructureV4Test() {
    nlohmann::json json = convert::testing::V4FlashConfig();
    json.erase("quantization_config");
    json.update({{"vocab_size", 32},
                 {"hidden_size", 8},
                 {"head_dim", 4},
                 {"moe_intermediate_size", 6},
                 {"num_hidden_layers", 4},
                 {"num_attention_heads", 2},
                 {"n_routed_experts", 2},
                 {"num_experts_per_tok", 2},
                 {"q_lora_rank", 5},
                 {"qk_rope_head_dim", 2},
                 {"o_groups", 2},
                 {"o_lora_rank", 3},
                 {"index_n_heads", 2},
                 {"index_head_dim", 4},
                 {"torch_dtype", "bfloat16"}});
    checkpoint_ = {};
    checkpoint_.config = json.dump(2) + "\n";
    const convert::ModelConfig config =
        convert::ParseModelConfig(checkpoint_.config, "config.json");
    for (const convert::ExpectedTensor& tensor : convert::ExpectedTensors(config)) {
      checkpoint_.Add(tensor.mtp ? kTinyShard2 : kTinyShard1, tensor.name, DtypeOf(tensor.role),
                      tensor.shape);
    }
  }
};

TEST_F(StructureV4Test, FindsNothingInAWholeModel) { EXPECT_THAT(Lines(Findings()), IsEmpty()); }

TEST_F(StructureV4Test, NamesWhatIsMissing) {
  checkpoint_.DropContaining("layers.2.attn.indexer.compressor.ape");
  EXPECT_THAT(Lines(Findings()),
              ElementsAre("missing-tensor  layers.2.attn.indexer.compressor.ape"));
}

TEST_F(StructureV4Test, NamesWhatTheConfigDoesNotHave) {
  // Layer 3 joins 128 positions, and has no indexer; layer 1 joins none.
  checkpoint_.Add(kTinyShard1, "layers.3.attn.indexer.weights_proj.weight", Dtype::kBF16, {2, 8});
  checkpoint_.Add(kTinyShard1, "layers.3.ffn.gate.tid2eid", Dtype::kI64, {32, 2});
  EXPECT_THAT(
      Lines(Findings()),
      UnorderedElementsAre(
          HasSubstr("unexpected-tensor model-00001-of-00004.safetensors layers.3.attn.indexer"),
          HasSubstr("layers.3.ffn.gate.tid2eid")));
}

TEST_F(StructureV4Test, NamesParametersThatLostTheirDtype) {
  for (const auto& [name, dtype] : {std::pair("layers.0.hc_attn_fn", Dtype::kBF16),
                                    {"layers.1.ffn.gate.tid2eid", Dtype::kF32}}) {
    SCOPED_TRACE(name);
    TinyCheckpoint whole = checkpoint_;
    const formats::Shape shape = checkpoint_.Find(name).shape;
    checkpoint_.DropContaining(name);
    checkpoint_.Add(kTinyShard1, name, dtype, shape);
    const formats::Finding finding = OnlyFinding();
    EXPECT_EQ(finding.kind, "wrong-dtype");
    EXPECT_EQ(finding.tensor, name);
    checkpoint_ = std::move(whole);
  }
}

TEST_F(StructureV4Test, TakesWhateverADraftIsMadeOf) {
  SetConfig("dspark_block_size", "5");
  checkpoint_.DropContaining("mtp.");
  checkpoint_.Add(kTinyShard2, "mtp.0.main_proj.weight", Dtype::kBF16, {8, 24});
  EXPECT_THAT(Lines(Findings()), IsEmpty());
}

}  // namespace
}  // namespace dsv3::testing
