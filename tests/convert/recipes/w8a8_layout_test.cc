#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/dequantize.h"
#include "convert/recipes/layout.h"
#include "formats/error.h"
#include "tests/convert/recipes/train_to_infer_test.h"
#include "tests/convert/support/bf16_to_fp8_test.h"

// W8A8 of msmodelslim in the layout of MindFormers' inference network, and back. What the network
// holds is stated here anew, row by row.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using ::testing::HasSubstr;

using Tensors = std::map<std::string, HeldTensor>;

// The sample's sizes.
constexpr std::uint64_t kNope = 64;
constexpr std::uint64_t kRope = 64;
constexpr std::uint64_t kLatent = 512;

// The row of a head's RoPE that the network has at `row`: all even ones first.
std::uint64_t Sorted(std::uint64_t row) { return 2 * (row % (kRope / 2)) + row / (kRope / 2); }

std::uint64_t QueryRow(std::uint64_t row) {
  const std::uint64_t head = row / (kNope + kRope) * (kNope + kRope);
  const std::uint64_t in_head = row % (kNope + kRope);
  return in_head < kNope ? row : head + kNope + Sorted(in_head - kNope);
}

std::uint64_t LatentRow(std::uint64_t row) {
  return row < kLatent ? row : kLatent + Sorted(row - kLatent);
}

std::uint64_t SameRow(std::uint64_t row) { return row; }

// The rows of a tensor, of `bytes` each, taken in another order.
std::string Rows(const HeldTensor& tensor, std::uint64_t (*from)(std::uint64_t)) {
  const std::uint64_t rows = tensor.shape[0];
  const std::size_t bytes = tensor.bytes.size() / rows;
  std::string taken;
  for (std::uint64_t row = 0; row < rows; ++row)
    taken.append(tensor.bytes, from(row) * bytes, bytes);
  return taken;
}

class W8A8LayoutTest : public TrainToInferTest {
 protected:
  static convert::ConversionReport Write(const fs::path& input, const fs::path& output,
                                         const std::string& to) {
    return Conversion(input, output, convert::LayoutConversion({.to = to})).Run();
  }

  // The sample as msmodelslim quantises it, but for the MTP layer. With `own_scales` the weights of
  // the attention have weight_scale and weight_offset, too.
  void WriteModel(const fs::path& output, Dtype floats, bool own_scales = false) {
    const fs::path bf16 = Bf16Sample();
    model_ = ReadCheckpoint(bf16);
    TinyCheckpoint made;
    const Tensors weights = model_;
    for (const auto& [name, tensor] : weights) {
      if (name.starts_with(kMtpLayer)) continue;
      const std::string module = name.substr(0, name.rfind('.') + 1);
      const bool is_attention =
          name.ends_with("q_a_proj.weight") || name.ends_with("q_b_proj.weight") ||
          name.ends_with("kv_a_proj_with_mqa.weight") || name.ends_with("o_proj.weight");
      const bool is_mlp = name.find(".mlp.") != std::string::npos && tensor.shape.size() == 2 &&
                          !name.ends_with("mlp.gate.weight");
      const auto add = [&](const std::string& part, Dtype dtype, const formats::Shape& shape) {
        const TinyTensor& added = made.AddScale("", module + part, dtype, shape);
        model_[module + part] = {dtype, shape, added.bytes};
      };
      if (name.ends_with("input_layernorm.weight") || name.ends_with("q_a_layernorm.weight")) {
        add("bias", Dtype::kBF16, tensor.shape);
      }
      if (!is_attention && !is_mlp) continue;
      const std::uint64_t rows = tensor.shape[0];
      const std::string codes = made.Add("", name, Dtype::kI8, tensor.shape).bytes;
      model_[name] = {Dtype::kI8, tensor.shape, codes};
      if (is_attention) {
        add("deq_scale", Dtype::kF32, {rows});
        add("input_scale", floats, {1});
        SetOffset(module + "input_offset", floats);
        model_[module + "quant_bias"] = {Dtype::kI32, {rows}, WithoutOffset(codes, rows)};
      }
      if (is_mlp || own_scales) {
        add("weight_scale", floats, {rows, 1});
        model_[module + "weight_offset"] = {
            floats, {rows, 1}, std::string(model_[module + "weight_scale"].bytes.size(), '\0')};
      }
    }
    WriteTensors(model_, bf16, output);
  }

  // What takes the offset −5 back: five times the sum of each row's codes.
  static std::string WithoutOffset(const std::string& codes, std::uint64_t rows) {
    std::string bytes;
    const std::size_t cols = codes.size() / rows;
    for (std::size_t row = 0; row < rows; ++row) {
      std::int32_t sum = 0;
      for (const char code : codes.substr(row * cols, cols)) sum += static_cast<signed char>(code);
      const std::int32_t bias = 5 * sum;
      bytes.append(reinterpret_cast<const char*>(&bias), sizeof bias);
    }
    return bytes;
  }

  // −5.
  void SetOffset(const std::string& name, Dtype dtype, float value = -5) {
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    // BF16 is the upper half of a float.
    const std::size_t size = formats::DtypeBits(dtype) / 8;
    model_[name] = {dtype, {1}, std::string(bytes + sizeof value - size, size)};
  }

  Tensors model_;
};

TEST_F(W8A8LayoutTest, WritesWhatTheNetworkReads) {
  WriteModel(dir_ / "in", Dtype::kF32);
  Write(dir_ / "in", dir_ / "out", "mindformers-infer");
  const Tensors layer = ReadTensors(dir_ / "out" / "model_layer_1.safetensors");
  const std::string from = "model.layers.1.";
  const std::string attention = "model.layers.1.attention.";
  struct Case {
    const char* model;
    const char* network;
    std::uint64_t (*row)(std::uint64_t);
  };
  for (const Case& c :
       {Case{"q_a_proj", "q2l_proj", SameRow}, Case{"q_b_proj", "l2q_proj", QueryRow},
        Case{"kv_a_proj_with_mqa", "kv2l", LatentRow}, Case{"o_proj", "wo", SameRow}}) {
    const std::string in = from + "self_attn." + c.model + ".";
    const std::string out = attention + c.network + ".";
    const HeldTensor& weight = layer.at(out + "_layer.weight");
    EXPECT_EQ(weight.dtype, Dtype::kI8);
    EXPECT_TRUE(weight.bytes == Rows(model_.at(in + "weight"), c.row)) << out;
    const HeldTensor& scale = layer.at(out + "_layer.matmul.dequant_scale");
    EXPECT_TRUE(scale.bytes == Rows(model_.at(in + "deq_scale"), c.row)) << out;
    EXPECT_EQ(scale.shape, model_.at(in + "deq_scale").shape);
    EXPECT_TRUE(layer.at(out + "_layer.matmul.quant_bias").bytes ==
                Rows(model_.at(in + "quant_bias"), c.row));
    EXPECT_TRUE(layer.at(out + "quant_op.input_scale") == model_.at(in + "input_scale"));
    const HeldTensor& zero = layer.at(out + "quant_op.input_zp");
    EXPECT_EQ(zero.dtype, Dtype::kI8);
    EXPECT_EQ(zero.bytes, "\xFB");
  }
  for (const char* const network : {"q2l_proj", "kv2l"}) {
    EXPECT_TRUE(layer.at(attention + network + ".quant_op.beta") ==
                model_.at(from + "input_layernorm.bias"));
  }
  EXPECT_TRUE(layer.at(attention + "l2q_proj.quant_op.beta") ==
              model_.at(from + "self_attn.q_a_layernorm.bias"));
  EXPECT_EQ(layer.count("model.layers.1.attention.lkv2kv_k_nope.weight"), 1U);

  const std::string shared = "model.layers.1.feed_forward.shared_experts.w2._layer.";
  const std::string shared_in = from + "mlp.shared_experts.down_proj.";
  EXPECT_TRUE(layer.at(shared + "weight") == model_.at(shared_in + "weight"));
  const std::uint64_t rows = model_.at(shared_in + "weight").shape[0];
  EXPECT_EQ(layer.at(shared + "matmul.weight_scale").shape, formats::Shape{rows});
  EXPECT_EQ(layer.at(shared + "matmul.weight_scale").bytes,
            model_.at(shared_in + "weight_scale").bytes);
  EXPECT_EQ(layer.at(shared + "matmul.weight_offset").shape, formats::Shape{rows});
}

TEST_F(W8A8LayoutTest, TransposesExpertsAndStacksTheirScales) {
  WriteModel(dir_ / "in", Dtype::kBF16);
  Write(dir_ / "in", dir_ / "out", "mindformers-infer");
  const Tensors file = ReadTensors(dir_ / "out" / "model_layer_2_routed_experts_w3.safetensors");
  EXPECT_EQ(file.size(), 3U);
  const std::string out = "model.layers.2.feed_forward.routed_experts.ffn.w3._layer.";
  const HeldTensor& weight = file.at(out + "weight");
  const formats::Shape& shape = model_.at("model.layers.2.mlp.experts.0.up_proj.weight").shape;
  const std::uint64_t experts = 8;
  ASSERT_EQ(weight.shape, (formats::Shape{experts, shape[1], shape[0]}));
  std::string scales;
  for (std::uint64_t expert = 0; expert < experts; ++expert) {
    const std::string in = fmt::format("model.layers.2.mlp.experts.{}.up_proj.", expert);
    const std::string& codes = model_.at(in + "weight").bytes;
    bool same = true;
    for (std::uint64_t row = 0; row < shape[0]; ++row) {
      for (std::uint64_t col = 0; col < shape[1]; ++col) {
        same = same && weight.bytes[(expert * shape[1] + col) * shape[0] + row] ==
                           codes[row * shape[1] + col];
      }
    }
    EXPECT_TRUE(same) << in;
    scales += model_.at(in + "weight_scale").bytes;
  }
  const HeldTensor& stacked = file.at(out + "matmul.weight_scale");
  EXPECT_EQ(stacked.shape, (formats::Shape{experts, shape[0]}));
  EXPECT_EQ(stacked.bytes, scales);
}

TEST_F(W8A8LayoutTest, ComesBackToTheByte) {
  for (const Dtype floats : {Dtype::kF32, Dtype::kBF16}) {
    fs::remove_all(dir_.path());
    fs::create_directories(dir_.path());
    WriteModel(dir_ / "in", floats);
    Write(dir_ / "in", dir_ / "there", "mindformers-infer");
    Write(dir_ / "there", dir_ / "back", "hf");
    EXPECT_TRUE(ReadTensors(dir_ / "back" / "model.safetensors") == model_);
    const nlohmann::json description = Json(dir_ / "back" / "quant_model_description.json");
    EXPECT_EQ(description.size(), model_.size() + 1);
    EXPECT_EQ(description["model.layers.1.self_attn.o_proj.weight"], "W8A8");
    EXPECT_EQ(description["model.layers.1.self_attn.o_proj.quant_bias"], "W8A8");
    EXPECT_EQ(description["model.layers.1.mlp.experts.3.up_proj.weight_scale"], "W8A8_DYNAMIC");
    EXPECT_EQ(description["model.layers.1.self_attn.kv_b_proj.weight"], "FLOAT");
    EXPECT_EQ(description["model.norm.weight"], "FLOAT");
  }
}

// The network has them in deq_scale.
TEST_F(W8A8LayoutTest, LeavesOutTheOwnScalesOfStaticWeights) {
  WriteModel(dir_ / "in", Dtype::kF32, /*own_scales=*/true);
  const convert::ConversionReport report = Write(dir_ / "in", dir_ / "there", "mindformers-infer");
  Write(dir_ / "there", dir_ / "back", "hf");
  Tensors expected = model_;
  std::erase_if(expected, [](const auto& tensor) {
    return tensor.first.find(".self_attn.") != std::string::npos &&
           (tensor.first.ends_with(".weight_scale") || tensor.first.ends_with(".weight_offset"));
  });
  EXPECT_LT(expected.size(), model_.size());
  EXPECT_TRUE(ReadTensors(dir_ / "back" / "model.safetensors") == expected);
}

TEST_F(W8A8LayoutTest, IsDequantisedFromBothNames) {
  WriteModel(dir_ / "in", Dtype::kF32);
  // Norms that shift nothing: quant_bias takes back the offset alone.
  for (auto& [name, tensor] : model_) {
    if (name.ends_with("layernorm.bias")) tensor.bytes.assign(tensor.bytes.size(), '\0');
  }
  WriteTensors(model_, dir_ / "bf16", dir_ / "in");
  Write(dir_ / "in", dir_ / "there", "mindformers-infer");
  for (const char* const name : {"in", "there"}) {
    Conversion(dir_ / name, dir_ / (std::string(name) + "-bf16"), convert::DequantizeConversion())
        .Run();
  }
  const Tensors of_files = ReadCheckpoint(dir_ / "in-bf16");
  EXPECT_TRUE(of_files == ReadCheckpoint(dir_ / "there-bf16"));
  EXPECT_EQ(of_files.at("model.layers.1.self_attn.o_proj.weight").dtype, Dtype::kBF16);
}

TEST_F(W8A8LayoutTest, RefusesOffsetsThatAreNotInt8) {
  for (const float value : {0.5F, 128.0F, -129.0F}) {
    WriteModel(dir_ / "in", Dtype::kF32);
    SetOffset("model.layers.2.self_attn.o_proj.input_offset", Dtype::kF32, value);
    WriteTensors(model_, dir_ / "bf16", dir_ / "in");
    fs::remove_all(dir_ / "bf16");
    fs::remove_all(dir_ / "fp8");
    const Error error = ErrorOf([&] { Write(dir_ / "in", dir_ / "out", "mindformers-infer"); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(), HasSubstr("2.self_attn.o_proj.input_offset'"));
    EXPECT_THAT(error.message(), HasSubstr("expected a whole number from -128 to 127"));
    fs::remove_all(dir_ / "out");
  }
}

TEST_F(W8A8LayoutTest, RefusesCopiesOfABiasThatDiffer) {
  WriteModel(dir_ / "in", Dtype::kF32);
  Write(dir_ / "in", dir_ / "there", "mindformers-infer");
  Poke(dir_ / "there", "model.layers.1.attention.kv2l.quant_op.beta", 2, "x");
  const Error error = ErrorOf([&] { Write(dir_ / "there", dir_ / "back", "hf"); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("kv2l.quant_op.beta"));
}

TEST_F(W8A8LayoutTest, OtherLayoutsRefuseInt8) {
  WriteModel(dir_ / "in", Dtype::kF32);
  const Error error = ErrorOf([&] { Write(dir_ / "in", dir_ / "out", "mindformers-train"); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("this layout does not carry"));
}

}  // namespace
}  // namespace dsv3::testing
