#include "convert/layouts/stacks.h"

#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/layouts/megatron_names.h"
#include "convert/layouts/mindformers_mcore_names.h"
#include "convert/layouts/read_layout.h"
#include "convert/layouts/torchtitan_names.h"
#include "convert/layouts/transformers_names.h"
#include "convert/layouts/write_layout.h"
#include "formats/error.h"
#include "tests/convert/model/configs.h"
#include "tests/convert/support/conversion.h"

namespace dsv3::convert {
namespace {

using dsv3::testing::ErrorOf;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

std::vector<StackTensor> Named(const std::vector<std::string>& names) {
  std::vector<StackTensor> tensors;
  for (const std::string& name : names) tensors.push_back({name, {1}});
  return tensors;
}

TEST(Stacks, HaveNames) {
  EXPECT_THAT(StackNames(),
              UnorderedElementsAre("hf", "deepseek", "megatron", "torchtitan", "mindformers-train",
                                   "mindformers-infer", "mindformers-mcore-v1",
                                   "mindformers-mcore-v2", "mindformers-mcore-v2-contiguous"));
  for (const std::string_view name : StackNames())
    EXPECT_EQ(StackName(*ParseStackName(name)), name);
  EXPECT_FALSE(ParseStackName("Megatron"));
}

TEST(Stacks, AreRecognisedByTheEmbedding) {
  const std::pair<const char*, std::pair<Stack, const char*>> names[] = {
      {"model.embed_tokens.weight", {Stack::kHuggingFace, ""}},
      {"module.model.embed_tokens.weight", {Stack::kHuggingFace, "module."}},
      {"model.model.embed_tokens.weight", {Stack::kHuggingFace, "model."}},
      {"_orig_mod.model.embed_tokens.weight", {Stack::kHuggingFace, ""}},
      {"embedding.word_embeddings.weight", {Stack::kMegatron, ""}},
      {"model.module.embedding.word_embeddings.weight", {Stack::kMegatron, "model.module."}},
      {"tok_embeddings.weight", {Stack::kTorchtitan, ""}},
      {"app.model.tok_embeddings.weight", {Stack::kTorchtitan, "app.model."}},
      {"embed.weight", {Stack::kDeepseek, ""}},
      {"model.tok_embeddings.embedding_weight", {Stack::kMindformersTrain, ""}},
  };
  for (const auto& [name, expected] : names) {
    const DetectedStack stack = DetectStack(
        Named({"optimizer.state.exp_avg.embedding.word_embeddings.weight",
               "optimizer.exp_avg.tok_embeddings.weight", "model.layers.61.embed_tokens.weight",
               "ema.model.embed_tokens.weight", name, "train_state"}));
    EXPECT_EQ(stack.stack, expected.first) << name;
    EXPECT_EQ(stack.prefix, expected.second) << name;
  }
}

TEST(Stacks, SayWhatWasSeenWhereNoneIsKnown) {
  const Error error = ErrorOf([] { DetectStack(Named({"a.x", "b.y", "c.z", "d.w"})); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("holds 4 tensors such as 'a.x', 'b.y', 'c.z' …"));
  EXPECT_THAT(error.message(), HasSubstr("megatron (embedding.word_embeddings.weight)"));
  EXPECT_THAT(ErrorOf([] { DetectStack({}); }).message(), HasSubstr("holds no tensor"));
  EXPECT_THAT(ErrorOf([] { DetectStack(Named({"a.x"})); }).message(), HasSubstr("holds 1 tensor "));
}

TEST(Stacks, SayWhoseEmbeddingIsBehindAnUnknownName) {
  const Error error = ErrorOf([] {
    DetectStack(Named({"a.x", "net.model.embed_tokens.weight", "b.y"}));
  });
  EXPECT_EQ(error.place().tensor, "net.model.embed_tokens.weight");
  EXPECT_THAT(error.message(), HasSubstr("is the embedding of hf, but 'net' before it"));
}

TEST(Stacks, SayThatAnAdapterIsToBeMerged) {
  const Error error = ErrorOf([] {
    DetectStack(
        Named({"base_model.model.model.embed_tokens.weight",
               "base_model.model.model.layers.0.self_attn.q_a_proj.lora_A.default.weight"}));
  });
  EXPECT_THAT(error.message(), HasSubstr("merge_and_unload"));
}

TEST(Stacks, RejectAnotherThanTheWantedOne) {
  const auto tensors = Named({"embedding.word_embeddings.weight"});
  EXPECT_EQ(DetectStack(tensors, Stack::kMegatron).stack, Stack::kMegatron);
  const Error error = ErrorOf([&] { DetectStack(tensors, Stack::kTorchtitan); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, "embedding.word_embeddings.weight");
  EXPECT_THAT(error.message(), HasSubstr("not from torchtitan; leave out --from, or say --from "
                                         "megatron"));
}

TEST(Stacks, RejectTwoModels) {
  const auto tensors = Named({"model.tok_embeddings.weight", "state_dict.tok_embeddings.weight",
                              "embedding.word_embeddings.weight"});
  const Error error = ErrorOf([&] { DetectStack(tensors); });
  EXPECT_EQ(error.place().tensor, "state_dict.tok_embeddings.weight");
  EXPECT_THAT(error.message(), HasSubstr("'model.tok_embeddings.weight' is an embedding, too"));
  EXPECT_EQ(DetectStack(tensors, Stack::kMegatron).prefix, "");
}

// What MindFormers writes is recognised by more than the embedding, and read without being told.
TEST(Stacks, OfWhatIsWrittenAreRecognised) {
  const ModelConfig config = ParseModelConfig(testing::SmallConfig().dump(), "config.json");
  const std::vector<StackTensor> model = ModelTensorsOf(config);
  for (const WritableLayout& layout : WritableLayouts()) {
    std::vector<StackTensor> tensors;
    for (const auto& tensor : WriteLayout(*layout.table, config, model, layout.variants)) {
      tensors.push_back({tensor.name, tensor.shape});
    }
    const DetectedStack stack = DetectStack(tensors);
    // Names and shapes do not show in which order gate and up lie.
    const std::string_view expected = layout.name == "transformers-fused"      ? "hf"
                                      : layout.name == "mindformers-train-bmm" ? "mindformers-train"
                                      : layout.name == "mindformers-mcore-v2-contiguous"
                                          ? "mindformers-mcore-v2"
                                          : layout.name;
    EXPECT_EQ(StackName(stack.stack), expected);
    EXPECT_EQ(ReadStack(stack, config, tensors).tensors.size(), model.size()) << layout.name;
  }
  std::vector<StackTensor> tensors;
  for (const auto& tensor :
       WriteLayout(MindformersMcoreV1Names(), config, model, {"local-experts"})) {
    tensors.push_back({tensor.name, tensor.shape});
  }
  EXPECT_EQ(DetectStack(tensors).stack, Stack::kMindformersMcoreV1);
  EXPECT_THAT(
      ErrorOf([&] { DetectStack(tensors, Stack::kMegatron); }).message(),
      HasSubstr("it is the embedding of mindformers-mcore-v1, so the checkpoint is not from "
                "megatron"));
}

TEST(Stacks, AreReadUnderTheNamesOfWrappers) {
  const ModelConfig config = ParseModelConfig(testing::SmallConfig().dump(), "config.json");
  const std::vector<StackTensor> model = ModelTensorsOf(config);
  for (const LayoutTable* table : {&TransformersNames(), &MegatronNames(), &TorchtitanNames()}) {
    std::vector<StackTensor> tensors = Named({"rng_state"});
    for (const ComposedTensor& tensor : WriteLayout(*table, config, model)) {
      std::string name = "module." + tensor.name;
      if (const std::size_t at = name.find("layers.1."); at != std::string::npos) {
        name.insert(at + std::string("layers.1.").size(), "_orig_mod.");
      }
      tensors.push_back({name, tensor.shape});
    }
    const LayoutReading reading = ReadStack(DetectStack(tensors), config, tensors);
    EXPECT_EQ(reading.tensors.size(), model.size()) << table->title;
    EXPECT_EQ(TotalOf(reading.skipped), 1U) << table->title;
  }
}

}  // namespace
}  // namespace dsv3::convert
