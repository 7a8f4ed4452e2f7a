#include "convert/open/gguf_model.h"

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/stream/source_files.h"
#include "formats/gguf_type.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/value_bytes.h"
#include "tests/formats/support/gguf_maker.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::GgufType;
using formats::Shape;
using testing::F32Bytes;
using testing::GgufMaker;
using ::testing::HasSubstr;
using Gguf = OpenOptions::Gguf;

constexpr char kKvB[] = "model.layers.0.self_attn.kv_b_proj.weight";

// 0, 1, 2 …
std::vector<float> Counted(std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i);
  return values;
}

// A block of Q8_0 with the scale 2^(exponent − 15) and codes that count up from `first`.
std::string Q8Block(unsigned exponent, int first) {
  std::string block = {'\0', static_cast<char>(exponent << 2)};
  for (int i = 0; i < 32; ++i) block += static_cast<char>(first + i);
  return block;
}

class GgufModelTest : public ::testing::Test {
 protected:
  OpenedModel Open(GgufMaker& made, Gguf gguf = Gguf::kModelNames, const char* prefix = "") {
    made.Write(dir_ / "m.gguf");
    return OpenModel(dir_ / "m.gguf", {.gguf = gguf, .name_prefix = prefix});
  }
  std::string RefusalOf(GgufMaker& made) {
    const Error error = testing::ErrorOf([&] { Open(made); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    return error.message();
  }

  static std::vector<std::string> NamesOf(const OpenedModel& model) {
    std::vector<std::string> names;
    for (const CatalogTensor& tensor : model.catalog.tensors()) names.push_back(tensor.name);
    return names;
  }

  // The values of a tensor that is F32.
  static std::vector<float> ValuesOf(const OpenedModel& model, const std::string& name) {
    const std::uint32_t position = model.catalog.Find(name);
    if (position == Catalog::kNone) throw std::out_of_range(name);
    const CatalogTensor& tensor = model.catalog.tensors()[position];
    EXPECT_EQ(tensor.dtype, Dtype::kF32);
    SourceFiles sources(model.catalog, TensorsOf(model).derived);
    const SourceRange range{position, 0, tensor.extent.length};
    formats::AlignedBuffer buffer;
    std::vector<std::span<const std::byte>> inputs;
    sources.Read(std::span(&range, 1), buffer, inputs);
    std::vector<float> values(inputs[0].size() / sizeof(float));
    std::memcpy(values.data(), inputs[0].data(), inputs[0].size());
    return values;
  }

  testing::TempDir dir_;
};

TEST_F(GgufModelTest, GivesTheModelsNames) {
  GgufMaker made;
  made.Add("token_embd.weight", GgufType::kBF16, {4, 2})
      .Add("blk.0.ffn_gate_exps.weight", GgufType::kF32, {3, 2, 4}, F32Bytes(Counted(24)))
      .Add("rope_freqs.weight", GgufType::kF32, {2}, F32Bytes({5, 6}));
  const OpenedModel model = Open(made);
  EXPECT_THAT(NamesOf(model),
              ::testing::ElementsAre(
                  "model.embed_tokens.weight", "model.layers.0.mlp.experts.0.gate_proj.weight",
                  "model.layers.0.mlp.experts.1.gate_proj.weight",
                  "model.layers.0.mlp.experts.2.gate_proj.weight", "rope_freqs.weight"));
  EXPECT_EQ(model.catalog.tensors()[0].dtype, Dtype::kBF16);
  EXPECT_EQ(model.catalog.tensors()[1].shape, (Shape{2, 4}));
  EXPECT_THAT(ValuesOf(model, "model.layers.0.mlp.experts.2.gate_proj.weight"),
              ::testing::ElementsAre(16, 17, 18, 19, 20, 21, 22, 23));
  EXPECT_THAT(ValuesOf(model, "rope_freqs.weight"), ::testing::ElementsAre(5, 6));
  EXPECT_EQ(model.directory, std::filesystem::path(dir_ / "m.gguf").parent_path());
  EXPECT_FALSE(model.has_config);
}

TEST_F(GgufModelTest, PutsAPrefixBeforeTheModelsNamesAlone) {
  GgufMaker made;
  made.Add("output.weight", GgufType::kF32, {2, 2}).Add("other", GgufType::kF32, {1});
  EXPECT_THAT(NamesOf(Open(made, Gguf::kModelNames, "language_model.")),
              ::testing::ElementsAre("language_model.lm_head.weight", "other"));
}

TEST_F(GgufModelTest, KeepsTheFilesNamesOfOtherArchitectures) {
  GgufMaker made("llama");
  made.Add("token_embd.weight", GgufType::kF32, {4, 2});
  EXPECT_THAT(NamesOf(Open(made)), ::testing::ElementsAre("token_embd.weight"));
  made = GgufMaker();
  made.keys.clear();
  made.Add("token_embd.weight", GgufType::kF32, {4, 2});
  EXPECT_THAT(NamesOf(Open(made)), ::testing::ElementsAre("token_embd.weight"));
}

TEST_F(GgufModelTest, JoinsKeysAndValues) {
  // Two heads; of each three rows of keys and one of values, five columns.
  GgufMaker made;
  made.Add("blk.0.attn_v_b.weight", GgufType::kF32, {2, 1, 5}, F32Bytes(Counted(10)));
  std::vector<float> keys = Counted(30);
  for (float& key : keys) key += 100;
  made.Add("blk.0.attn_k_b.weight", GgufType::kF32, {2, 5, 3}, F32Bytes(keys));
  const OpenedModel model = Open(made);
  ASSERT_THAT(NamesOf(model), ::testing::ElementsAre(kKvB));
  EXPECT_EQ(model.catalog.tensors()[0].shape, (Shape{8, 5}));
  const std::vector<float> values = ValuesOf(model, kKvB);
  for (std::size_t head = 0; head < 2; ++head) {
    for (std::size_t col = 0; col < 5; ++col) {
      for (std::size_t row = 0; row < 3; ++row) {
        EXPECT_EQ(values[(head * 4 + row) * 5 + col],
                  100 + static_cast<float>(head * 15 + col * 3 + row));
      }
      EXPECT_EQ(values[(head * 4 + 3) * 5 + col], static_cast<float>(head * 5 + col));
    }
  }
  // The last row of keys of the second head, third column; its value in the same column.
  EXPECT_THAT(GgufPlaceOf(*model.gguf, 0, 6 * 5 + 2),
              HasSubstr("element 23 of tensor 'blk.0.attn_k_b.weight' (F32), bytes ["));
  EXPECT_THAT(GgufPlaceOf(*model.gguf, 0, 7 * 5 + 2),
              HasSubstr("element 7 of tensor 'blk.0.attn_v_b.weight' (F32)"));
}

TEST_F(GgufModelTest, JoinsKeysAndValuesOfTwoTypes) {
  GgufMaker made;
  std::string keys;
  for (int i = 0; i < 32; ++i) keys += Q8Block(15, i);  // 32 columns, 32 rows of keys
  made.Add("blk.0.attn_k_b.weight", GgufType::kQ8_0, {1, 32, 32}, keys)
      .Add("blk.0.attn_v_b.weight", GgufType::kBF16, {1, 1, 32}, testing::BF16Bytes(Counted(32)));
  const OpenedModel model = Open(made);
  const std::vector<float> values = ValuesOf(model, kKvB);
  ASSERT_EQ(values.size(), 33U * 32);
  for (std::size_t row = 0; row < 32; ++row) {
    for (std::size_t col = 0; col < 32; ++col) {
      EXPECT_EQ(values[row * 32 + col], static_cast<float>(row + col));
    }
  }
  EXPECT_EQ(values[32 * 32 + 7], 7);
}

TEST_F(GgufModelTest, TakesKvBInOnePieceWhereItIsThere) {
  GgufMaker made;
  made.Add("blk.0.attn_k_b.weight", GgufType::kF32, {2, 5, 3})
      .Add("blk.0.attn_v_b.weight", GgufType::kF32, {2, 1, 5})
      .Add("blk.0.attn_kv_b.weight", GgufType::kF32, {8, 5}, F32Bytes(Counted(40)));
  const OpenedModel model = Open(made);
  EXPECT_THAT(NamesOf(model),
              ::testing::ElementsAre("blk.0.attn_k_b.weight", "blk.0.attn_v_b.weight", kKvB));
  EXPECT_EQ(ValuesOf(model, kKvB), Counted(40));
}

TEST_F(GgufModelTest, MakesValuesOfBlocks) {
  GgufMaker made;
  made.Add("blk.0.ffn_down_exps.weight", GgufType::kQ8_0, {2, 1, 64},
           Q8Block(15, 0) + Q8Block(16, 0) + Q8Block(14, 0) + Q8Block(15, -32));
  const OpenedModel model = Open(made);
  const std::vector<float> values =
      ValuesOf(model, "model.layers.0.mlp.experts.1.down_proj.weight");
  ASSERT_EQ(values.size(), 64U);
  EXPECT_EQ(values[3], 1.5F);
  EXPECT_EQ(values[32], -32);
  EXPECT_EQ(values[63], -1);
  const std::uint64_t data = model.gguf->stored.tensors()[0].extent.offset;
  EXPECT_EQ(GgufPlaceOf(*model.gguf, 1, 40),
            "block 3 of tensor 'blk.0.ffn_down_exps.weight' (Q8_0), bytes [" +
                std::to_string(data + 102) + ", " + std::to_string(data + 136) + ") of the file");
}

TEST_F(GgufModelTest, RefusesTypesThatAreNotDecodedByName) {
  const GgufType q4_k = formats::FindGgufType(12)->type;
  GgufMaker made;
  made.Add("output.weight", q4_k, {1, 256}).Add("a", GgufType::kF32, {1});
  const std::string refusal = RefusalOf(made);
  EXPECT_THAT(refusal, HasSubstr("m.gguf: tensor 'output.weight' is Q4_K"));
  EXPECT_THAT(refusal, HasSubstr("dsv3-inspect"));
  // They can be listed.
  const OpenedModel model = Open(made, Gguf::kOwnNames);
  EXPECT_THAT(NamesOf(model), ::testing::ElementsAre("output.weight", "a"));
  EXPECT_EQ(model.catalog.tensors()[0].dtype, Dtype::kU8);
}

TEST_F(GgufModelTest, RefusesTensorsThatDoNotMakeTheModels) {
  GgufMaker made;
  made.Add("blk.0.attn_k_b.weight", GgufType::kF32, {2, 5, 3});
  EXPECT_THAT(RefusalOf(made), HasSubstr("has no values beside it: attn_v_b.weight is missing"));
  made.Add("blk.0.attn_v_b.weight", GgufType::kF32, {2, 1, 4});
  EXPECT_THAT(RefusalOf(made), HasSubstr("'blk.0.attn_k_b.weight' has shape [2, 5, 3], and "
                                         "'blk.0.attn_v_b.weight' has [2, 1, 4]"));
  made = GgufMaker();
  made.Add("blk.0.attn_k_b.weight", GgufType::kF32, {2, 5, 3})
      .Add("blk.0.attn_v_b.weight", GgufType::kF32, {2, 0, 5});
  EXPECT_THAT(RefusalOf(made), HasSubstr("do not make kv_b_proj"));
  made = GgufMaker();
  made.Add("blk.0.attn_v_b.weight", GgufType::kF32, {2, 1, 5});
  EXPECT_THAT(RefusalOf(made), HasSubstr("has no keys beside it: attn_k_b.weight is missing"));
  made = GgufMaker();
  made.Add("blk.0.attn_k_b.weight", GgufType::kI32, {2, 5, 3})
      .Add("blk.0.attn_v_b.weight", GgufType::kF32, {2, 1, 5});
  EXPECT_THAT(RefusalOf(made), HasSubstr("'blk.0.attn_k_b.weight' does not hold floats"));
  made = GgufMaker();
  made.Add("output.weight", GgufType::kF32, {2}).Add("lm_head.weight", GgufType::kF32, {2});
  EXPECT_THAT(RefusalOf(made),
              HasSubstr("'lm_head.weight' is 'lm_head.weight' of the model, and so is another"));
  made = GgufMaker();
  made.Add("blk.0.attn_k_b.weight", GgufType::kF16, {70'000, 1, 1})
      .Add("blk.0.attn_v_b.weight", GgufType::kF16, {70'000, 1, 1});
  EXPECT_THAT(RefusalOf(made), HasSubstr("do not make kv_b_proj"));
  made = GgufMaker();
  made.Add("blk.0.ffn_up_exps.weight", GgufType::kI8, {300'000, 1, 1});
  EXPECT_THAT(RefusalOf(made), HasSubstr("more than 262144 tensors"));
}

// Products of dimensions with a zero are nothing to loop over.
TEST_F(GgufModelTest, KeepsAStackOfNothing) {
  GgufMaker made;
  made.Add("blk.0.ffn_up_exps.weight", GgufType::kF32, {std::uint64_t{1} << 40, 0, 32});
  EXPECT_THAT(NamesOf(Open(made)), ::testing::ElementsAre("blk.0.ffn_up_exps.weight"));
}

TEST_F(GgufModelTest, IsOpenedOnlyWhereACommandTakesIt) {
  GgufMaker made;
  made.Add("output.weight", GgufType::kF32, {2, 2}).Write(dir_ / "m.gguf");
  const Error error = testing::ErrorOf([&] { OpenModel(dir_ / "m.gguf"); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("it is a GGUF file"));
  EXPECT_THAT(error.message(), HasSubstr("compare, checksum check and all of dsv3-verify"));
}

TEST_F(GgufModelTest, NeedsNoConfigAndNoStack) {
  GgufMaker made;
  made.Add("output.weight", GgufType::kF32, {2, 2});
  OpenOptions options{.gguf = Gguf::kModelNames};
  const OpenedModel model = Open(made);
  options.config = "config.json";
  const Error of_config = testing::ErrorOf([&] { RequireUsed(options, model); });
  EXPECT_EQ(of_config.code(), ErrorCode::kUsage);
  EXPECT_THAT(of_config.message(), HasSubstr("--config: a GGUF file says itself"));
  options.from = Stack::kMegatron;
  EXPECT_THAT(testing::ErrorOf([&] { RequireUsed(options, model); }).message(),
              HasSubstr("--from: a GGUF file says itself"));
}

}  // namespace
}  // namespace dsv3::convert
