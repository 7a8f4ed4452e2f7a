#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/open/open_model.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/train_to_infer.h"
#include "tests/convert/recipes/train_to_infer_test.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const convert::TrainToInferOptions kSplit = {.mla = convert::MlaForm::kSplit};

class MlaEditTest : public TrainToInferTest {
 protected:
  // The tiny sample in FP8 with blocks of this many rows and columns.
  fs::path Fp8Sample(std::uint64_t side) {
    Conversion(Bf16Sample(), dir_ / "quantised",
               convert::Bf16ToFp8Conversion(
                   {.block = convert::QuantizeBlock{quant::BlockForm::kBlock, {side, side}}}))
        .Run();
    return dir_ / "quantised";
  }
};

// Some rows of each of a number of groups of rows.
HeldTensor RowsOf(const HeldTensor& whole, std::uint64_t groups, std::uint64_t begin,
                  std::uint64_t end) {
  const std::uint64_t rows = whole.shape[0] / groups;
  const std::uint64_t row_bytes = whole.bytes.size() / whole.shape[0];
  HeldTensor part{whole.dtype, {groups * (end - begin), whole.shape[1]}, ""};
  for (std::uint64_t group = 0; group < groups; ++group) {
    part.bytes += whole.bytes.substr((group * rows + begin) * row_bytes, (end - begin) * row_bytes);
  }
  return part;
}

// What split makes of a checkpoint whose heads have `keys` + `values` rows.
std::map<std::string, HeldTensor> SplitByHand(const std::map<std::string, HeldTensor>& tensors,
                                              std::uint64_t heads, std::uint64_t keys,
                                              std::uint64_t values) {
  const std::string joined = "kv_b_proj";
  std::map<std::string, HeldTensor> split;
  for (const auto& [name, tensor] : tensors) {
    const std::size_t at = name.find(joined);
    if (at == std::string::npos) {
      split.emplace(name, tensor);
      continue;
    }
    const std::uint64_t per_row = heads * (keys + values) / tensor.shape[0];
    std::string k = name;
    std::string v = name;
    split.emplace(k.replace(at, joined.size(), "k_b_proj"),
                  RowsOf(tensor, heads, 0, keys / per_row));
    split.emplace(v.replace(at, joined.size(), "v_b_proj"),
                  RowsOf(tensor, heads, keys / per_row, (keys + values) / per_row));
  }
  return split;
}

TEST_F(MlaEditTest, SplitsTheRowsOfEachHead) {
  const fs::path in = Bf16Sample();
  const nlohmann::json config = Json(in / "config.json");
  const convert::ConversionReport report = Convert(in, dir_ / "out", kSplit);
  EXPECT_TRUE(ReadCheckpoint(dir_ / "out") ==
              SplitByHand(ReadCheckpoint(in), config["num_attention_heads"],
                          config["qk_nope_head_dim"], config["v_head_dim"]));
  EXPECT_EQ(ReadFile(dir_ / "out" / "config.json"), ReadFile(in / "config.json"));
  EXPECT_EQ(report.facts[2].member, "split");
  EXPECT_EQ(report.facts[2].names.size(), kMainLayers + 1U);
  // The split form is a model that other commands open.
  EXPECT_TRUE(convert::OpenModel(dir_ / "out").findings.empty());
}

TEST_F(MlaEditTest, SplitsFp8WithItsScalesWithoutRounding) {
  const fs::path in = Fp8Sample(32);
  const nlohmann::json config = Json(in / "config.json");
  Convert(in, dir_ / "out", kSplit);
  EXPECT_TRUE(ReadCheckpoint(dir_ / "out") ==
              SplitByHand(ReadCheckpoint(in), config["num_attention_heads"],
                          config["qk_nope_head_dim"], config["v_head_dim"]));
  Conversion(dir_ / "out", dir_ / "out-bf16").Run();
  Conversion(in, dir_ / "in-bf16").Run();
  Convert(dir_ / "in-bf16", dir_ / "in-bf16-split", kSplit);
  EXPECT_TRUE(ReadCheckpoint(dir_ / "out-bf16") == ReadCheckpoint(dir_ / "in-bf16-split"));
}

TEST_F(MlaEditTest, GivesTheScaleOfAWholeWeightToBothHalves) {
  Conversion(Bf16Sample(), dir_ / "quantised",
             convert::Bf16ToFp8Conversion(
                 {.block = convert::QuantizeBlock{quant::BlockForm::kTensor, {}}}))
      .Run();
  Convert(dir_ / "quantised", dir_ / "out", kSplit);
  const std::map<std::string, HeldTensor> in = ReadCheckpoint(dir_ / "quantised");
  const std::map<std::string, HeldTensor> out = ReadCheckpoint(dir_ / "out");
  const std::string attention = "model.layers.0.self_attn.";
  const HeldTensor& scale = in.at(attention + "kv_b_proj.weight_scale");
  EXPECT_TRUE(out.at(attention + "k_b_proj.weight_scale") == scale);
  EXPECT_TRUE(out.at(attention + "v_b_proj.weight_scale") == scale);
}

TEST_F(MlaEditTest, RefusesABlockThatAHeadsBorderCuts) {
  const fs::path in = dir_ / "in";
  MakeSample(convert::SamplePreset::kTiny, 1, in);  // 64 + 64 rows a head, blocks of 128
  const Error error = ErrorOf([&] { Convert(in, dir_ / "out", kSplit); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, "model.layers.0.self_attn.kv_b_proj.weight_scale_inv");
  EXPECT_THAT(error.message(), HasSubstr("128 rows"));
  EXPECT_FALSE(fs::exists(dir_ / "out"));
}

TEST_F(MlaEditTest, RefusesAModelThatIsSplitAlready) {
  Convert(Bf16Sample(), dir_ / "split", kSplit);
  const Error error = ErrorOf([&] { Convert(dir_ / "split", dir_ / "out", kSplit); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("nothing to split"));
}

TEST_F(MlaEditTest, NamesBothHalvesWhereTheConfigNamesTheWhole) {
  const fs::path in = Fp8Sample(32);
  nlohmann::json config = Json(in / "config.json");
  config["quantization_config"]["modules_to_not_convert"] = {"lm_head", "self_attn.kv_b_proj"};
  WriteFile(in / "config.json", config.dump(2));
  Convert(in, dir_ / "out", kSplit);
  EXPECT_EQ(Json(dir_ / "out" / "config.json")["quantization_config"]["modules_to_not_convert"],
            nlohmann::json({"lm_head", "self_attn.k_b_proj", "self_attn.v_b_proj"}));
}

}  // namespace
}  // namespace dsv3::testing
