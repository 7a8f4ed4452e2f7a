#include "convert/layouts/wrapper_prefixes.h"

#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

TEST(WrapperPrefixes, GoFromNames) {
  EXPECT_EQ(CanonicalName("model.layers.0.input_layernorm.weight", ""),
            "model.layers.0.input_layernorm.weight");
  EXPECT_EQ(CanonicalName("module.model.norm.weight", "module."), "model.norm.weight");
  EXPECT_EQ(CanonicalName("lm_head.weight", "module."), "lm_head.weight");
  EXPECT_EQ(CanonicalName("_orig_mod.module.layers.0._orig_mod.wo.weight", "module."),
            "layers.0.wo.weight");
  EXPECT_EQ(CanonicalName("layers.0._checkpoint_wrapped_module._fsdp_wrapped_module.w", ""),
            "layers.0.w");
  // Only whole segments are wrappers.
  EXPECT_EQ(CanonicalName("a_orig_mod.b._orig_mod", ""), "a_orig_mod.b._orig_mod");
  EXPECT_EQ(CanonicalName("", "model."), "");
}

TEST(WrapperPrefixes, AllGoFromTheNamesOfAStackThatHasNone) {
  EXPECT_EQ(WithoutWrappers("module.module.decoder.layers.0._orig_mod.x"), "decoder.layers.0.x");
  EXPECT_EQ(WithoutWrappers("decoder.module.x"), "decoder.module.x");
  EXPECT_EQ(WithoutWrappers("module."), "");
}

TEST(WrapperPrefixes, AreKnownSegments) {
  for (const char* prefix :
       {"", "module.", "model.module.", "app.model.", "state_dict.model.", "model_state_dict."}) {
    EXPECT_TRUE(IsWrapperPrefix(prefix)) << prefix;
  }
  for (const char* prefix : {"module", ".", "optimizer.", "model.optimizer.", "ema.", "modules."}) {
    EXPECT_FALSE(IsWrapperPrefix(prefix)) << prefix;
  }
}

}  // namespace
}  // namespace dsv3::convert
