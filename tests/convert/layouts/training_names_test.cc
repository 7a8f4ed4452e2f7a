#include "convert/layouts/training_names.h"

#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

TEST(TrainingNames, AreSeenByTheEmbeddingAndByWrappers) {
  using Names = std::vector<std::string_view>;
  for (const Names& names :
       {Names{"a.x", "_orig_mod.model.embed_tokens.weight"},
        Names{"module.model.embed_tokens.weight"},
        Names{"model.embed_tokens.weight", "model.layers.0._orig_mod.x"},
        Names{"tok_embeddings.weight"}, Names{"model.embedding.word_embeddings.weight"}}) {
    EXPECT_TRUE(AreNamesOfTraining(names)) << names.back();
  }
  // The last two are of models within others, and of V4.
  for (const Names& names :
       {Names{"model.embed_tokens.weight"}, Names{"model.norm.weight"},
        Names{"ema.module.model.embed_tokens.weight"},
        Names{"model.embed_tokens.weight", "module.model.embed_tokens.weight"},
        Names{"language_model.model.embed_tokens.weight"}, Names{"embed.weight"}}) {
    EXPECT_FALSE(AreNamesOfTraining(names)) << names.back();
  }
}

}  // namespace
}  // namespace dsv3::convert
