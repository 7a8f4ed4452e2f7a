#include "convert/model/zero_weights.h"

#include <limits>

#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

TEST(ZeroWeightsTest, KnowsWeightMatricesByNameDtypeAndShape) {
  using formats::Dtype;
  for (const char* name :
       {"lm_head.weight", "weight", "layers.0.mlp.experts.down_proj", "a.gate_up_proj"}) {
    for (const Dtype dtype : {Dtype::kF8E4M3, Dtype::kF8E5M2, Dtype::kBF16, Dtype::kF32}) {
      EXPECT_TRUE(IsWeightMatrix(name, dtype, {2, 3})) << name;
      EXPECT_TRUE(IsWeightMatrix(name, dtype, {4, 2, 3})) << name;
      EXPECT_FALSE(IsWeightMatrix(name, dtype, {6})) << name;
      EXPECT_FALSE(IsWeightMatrix(name, dtype, {})) << name;
    }
    EXPECT_FALSE(IsWeightMatrix(name, Dtype::kU8, {2, 3})) << "codes";
    EXPECT_FALSE(IsWeightMatrix(name, Dtype::kI8, {2, 3})) << name;
  }
  for (const char* name : {"a.bias", "a.weight_scale_inv", "a.weight_scale", "weight.other",
                           "notweight", "a.o_proj"}) {
    EXPECT_FALSE(IsWeightMatrix(name, Dtype::kBF16, {2, 3})) << name;
  }
}

TEST(ZeroWeightsTest, KnowsCodesByNameDtypeAndShape) {
  using formats::Dtype;
  for (const char* name : {"a.weight", "a.weight_packed", "a.qweight", "a.weight_blocks",
                           "experts.gate_up_proj_blocks", "experts.down_proj_blocks"}) {
    for (const Dtype dtype : {Dtype::kU8, Dtype::kI8, Dtype::kI32}) {
      EXPECT_TRUE(IsCodeMatrix(name, dtype, {2, 3})) << name;
      EXPECT_FALSE(IsCodeMatrix(name, dtype, {6})) << name;
    }
    EXPECT_FALSE(IsCodeMatrix(name, Dtype::kBF16, {2, 3})) << name;
    EXPECT_FALSE(IsCodeMatrix(name, Dtype::kI64, {2, 3})) << name;
  }
  for (const char* name : {"a.weight_scale", "a.qzeros", "a.weight_zero_point", "a.g_idx",
                           "layers.0.ffn.gate.tid2eid"}) {
    EXPECT_FALSE(IsCodeMatrix(name, Dtype::kU8, {2, 3})) << name;
  }
}

TEST(ZeroWeightsTest, KnowsTheScalesOfZeros) {
  for (const float scale :
       {0.0F, 1.0F, 0x1p-7F, 0x1p-3F, 1e-4F / 448, 1e-12F / 448, 0x1p-22F, 0x1p-127F}) {
    EXPECT_TRUE(IsScaleOfZeros(scale)) << scale;
  }
  for (const float scale :
       {0x1p-21F, 1e-4F, 0.5F, 2.0F, -1.0F, std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_FALSE(IsScaleOfZeros(scale)) << scale;
  }
}

}  // namespace
}  // namespace dsv3::convert
