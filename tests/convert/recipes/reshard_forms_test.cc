#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/model/expected_tensors.h"
#include "convert/model/model_config.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/sample_config.h"
#include "formats/json/json_edit.h"
#include "tests/convert/recipes/dequantize_test.h"
#include "tests/convert/support/checkpoint_checks.h"
#include "tests/convert/support/reshard.h"

// Models whose experts have a form of codes, cut between ranks and merged again: every form that is
// in no sample, under the names that its tool gives.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;

// A weight [rows, cols] of a checkpoint.
struct Weight {
  TinyCheckpoint& checkpoint;
  std::string module;
  std::uint64_t rows;
  std::uint64_t cols;

  TinyTensor& Add(const std::string& part, Dtype dtype, const Shape& shape) const {
    return checkpoint.Add(kTinyShard1, module + part, dtype, shape);
  }
  TinyTensor& AddScale(const std::string& part, Dtype dtype, const Shape& shape) const {
    return checkpoint.AddScale(kTinyShard2, module + part, dtype, shape);
  }
};

struct Form {
  const char* name;
  std::string quantization;  // of config.json
  void (*add)(const Weight& weight);
};

void PrintTo(const Form& form, std::ostream* out) { *out << form.name; }

void AddW4AFp8(const Weight& w) {
  w.Add("weight", Dtype::kI8, {w.rows, w.cols / 2});
  w.AddScale("weight_scale_inv", Dtype::kF32, {w.rows, w.cols / 128});
}

void AddInt4Bytes(const Weight& w) {
  for (char& code : w.Add("weight", Dtype::kI8, {w.rows, w.cols}).bytes) {
    code = static_cast<char>((static_cast<unsigned char>(code) & 0xF) - 8);
  }
  w.AddScale("weight_scale", Dtype::kBF16, {w.rows, w.cols / 128});
}

void AddNvFp4Packed(const Weight& w) {
  w.Add("weight_packed", Dtype::kU8, {w.rows, w.cols / 2});
  MakeE4M3Scales(w.Add("weight_scale", Dtype::kF8E4M3, {w.rows, w.cols / 16}));
  SetFloat(w.Add("weight_global_scale", Dtype::kF32, {1}), 3);
  SetFloat(w.Add("input_global_scale", Dtype::kF32, {1}), 1);
}

void AddMxFp4Packed(const Weight& w) {
  w.Add("weight_packed", Dtype::kU8, {w.rows, w.cols / 2});
  w.AddScale("weight_scale", Dtype::kU8, {w.rows, w.cols / 32});
}

void AddInt4WithZeroPoints(const Weight& w) {
  w.Add("weight_packed", Dtype::kI32, {w.rows, w.cols / 8});
  w.AddScale("weight_scale", Dtype::kBF16, {w.rows, w.cols / 128});
  w.Add("weight_zero_point", Dtype::kI32, {w.rows / 8, w.cols / 128});
  TinyTensor& shape = w.Add("weight_shape", Dtype::kI64, {2});
  const std::uint64_t dimensions[] = {w.rows, w.cols};
  shape.bytes.assign(reinterpret_cast<const char*>(dimensions), sizeof dimensions);
}

void AddAwq(const Weight& w) {
  w.Add("qweight", Dtype::kI32, {w.cols, w.rows / 8});
  w.Add("qzeros", Dtype::kI32, {w.cols / 128, w.rows / 8});
  w.AddScale("scales", Dtype::kF16, {w.cols / 128, w.rows});
}

std::string Groups(const char* format, const char* weights) {
  return fmt::format(R"({{"quant_method": "compressed-tensors", "format": "{}",
      "config_groups": {{"group_0": {{"weights": {}}}}}}})",
                     format, weights);
}

class ReshardFormsTest : public ::testing::TestWithParam<Form> {
 protected:
  // Experts of 256 rows and columns, which two ranks cut between groups of 128.
  ReshardFormsTest() {
    TinyCheckpoint checkpoint;
    checkpoint.config =
        formats::ReplaceJsonMember(convert::SampleConfig(convert::SamplePreset::kNvFp4),
                                   "moe_intermediate_size", "256", "config.json");
    checkpoint.config = formats::AppendJsonMember(checkpoint.config, "quantization_config",
                                                  GetParam().quantization, "config.json");
    const convert::ModelConfig config = convert::ParseModelConfig(checkpoint.config, "config.json");
    for (const convert::ExpectedTensor& tensor : convert::ExpectedTensors(config)) {
      if (tensor.role == convert::TensorRole::kExpertLinear) {
        GetParam().add({checkpoint, tensor.name.substr(0, tensor.name.rfind('.') + 1),
                        tensor.shape[0], tensor.shape[1]});
        continue;
      }
      const bool is_bias = tensor.role == convert::TensorRole::kRouterBias;
      checkpoint.AddScale(kTinyShard1, tensor.name, is_bias ? Dtype::kF32 : Dtype::kBF16,
                          tensor.shape);
    }
    checkpoint.Write(in());
  }

  fs::path in() const { return dir_ / "in"; }
  fs::path ranks() const { return dir_ / "ranks"; }

  convert::ReshardOptions Sizes(std::uint64_t tp, std::uint64_t ep) {
    convert::ReshardOptions options;
    options.parallel.tp = tp;
    options.parallel.ep = ep;
    options.on_misaligned = convert::OnMisaligned::kReplicateModule;
    return options;
  }

  // All tensors of a rank's files.
  std::map<std::string, HeldTensor> RankTensors(int rank) const {
    std::vector<std::string> files;
    for (const auto& entry : fs::directory_iterator(ranks())) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with(fmt::format("model-rank-{}", rank)) && name.ends_with(".safetensors")) {
        files.push_back(name);
      }
    }
    return ReadTensors(ranks(), files);
  }

  TempDir dir_;
};

const Form kForms[] = {
    {"W4AFp8", R"({"quant_method": "w4afp8"})", AddW4AFp8},
    {"W4AFp8OfCompressedTensors",
     Groups("int-quantized", R"({"num_bits": 4, "type": "int", "strategy": "group",
                                 "group_size": 128})"),
     AddInt4Bytes},
    {"NvFp4OfCompressedTensors", Groups("nvfp4-pack-quantized", R"({"num_bits": 4, "type": "float",
                                        "strategy": "tensor_group", "group_size": 16})"),
     AddNvFp4Packed},
    {"MxFp4OfCompressedTensors",
     Groups("mxfp4-pack-quantized", R"({"num_bits": 4, "type": "float", "strategy": "group",
                                        "group_size": 32})"),
     AddMxFp4Packed},
    {"PackedInt4WithZeroPoints",
     Groups("pack-quantized", R"({"num_bits": 4, "type": "int", "strategy": "group",
                                  "group_size": 128, "symmetric": false})"),
     AddInt4WithZeroPoints},
    {"Awq", R"({"quant_method": "awq", "bits": 4, "group_size": 128})", AddAwq},
};

INSTANTIATE_TEST_SUITE_P(Forms, ReshardFormsTest, ::testing::ValuesIn(kForms),
                         [](const auto& form) { return std::string(form.param.name); });

TEST_P(ReshardFormsTest, ComesBackUnderItsOwnNames) {
  for (const auto& [tp, ep] : {std::pair(2, 1), std::pair(2, 2), std::pair(4, 2)}) {
    fs::remove_all(ranks());
    fs::remove_all(dir_ / "again");
    RunReshard(in(), ranks(),
               Sizes(static_cast<std::uint64_t>(tp), static_cast<std::uint64_t>(ep)));
    ExpectEqualValues(in(), ranks());
    RunMerge(ranks(), dir_ / "again");
    ExpectSameFiles(in(), dir_ / "again");
  }
}

// Each rank's codes and scales are a weight of their own, which the same form reads: half of the
// columns of down_proj.
TEST_P(ReshardFormsTest, EachRankHoldsCodesWithTheirScales) {
  RunReshard(in(), ranks(), Sizes(2, 1));
  const std::string module = "model.layers.2.mlp.experts.1.down_proj.";
  const auto whole = ReadCheckpoint(in());
  const auto first = RankTensors(0);
  const auto second = RankTensors(1);
  std::size_t halved = 0;
  for (const auto& [name, tensor] : whole) {
    if (!name.starts_with(module)) continue;
    ASSERT_TRUE(first.contains(name)) << name;
    const std::uint64_t elements = formats::NumElements(tensor.shape).value();
    if (elements <= 2) {
      EXPECT_TRUE(first.at(name) == tensor) << name;
      continue;
    }
    ++halved;
    EXPECT_EQ(formats::NumElements(first.at(name).shape).value() * 2, elements) << name;
    EXPECT_EQ(formats::NumElements(second.at(name).shape).value() * 2, elements) << name;
  }
  EXPECT_GE(halved, 2U);
}

TEST_P(ReshardFormsTest, RanksBecomeTheBf16OfTheWhole) {
  RunReshard(in(), ranks(), Sizes(2, 2));
  for (const char* const from : {"in", "ranks"}) {
    Conversion(dir_ / from, dir_ / (std::string(from) + "-bf16"), convert::DequantizeConversion())
        .Run();
  }
  ExpectSameFiles(dir_ / "in-bf16", dir_ / "ranks-bf16");
}

}  // namespace
}  // namespace dsv3::testing
