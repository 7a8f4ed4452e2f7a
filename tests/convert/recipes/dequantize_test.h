#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <ostream>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "convert/recipes/dequantize.h"
#include "formats/error.h"
#include "tests/convert/recipes/expected_bf16.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/temp_dir.h"

// Checkpoints of one weight in each form that dequantize reads, and the values that the forms'
// definitions give it.
namespace dsv3::testing {
using formats::Dtype;
using formats::Shape;

inline constexpr std::uint64_t kRows = 24;
inline constexpr std::uint64_t kCols = 256;
inline constexpr char kModule[] = "model.layers.3.mlp.experts.7.up_proj.";

// One more weight of a form in a checkpoint, and its value at an element.
struct Made {
  TinyCheckpoint checkpoint;
  std::function<float(std::uint64_t row, std::uint64_t col)> value;
  std::string codes;  // the name of the tensor that holds them

  TinyTensor& Add(const std::string& part, Dtype dtype, const Shape& shape) {
    return checkpoint.Add(kTinyShard1, kModule + part, dtype, shape);
  }
  TinyTensor& AddScale(const std::string& part, Dtype dtype, const Shape& shape) {
    return checkpoint.AddScale(kTinyShard2, kModule + part, dtype, shape);
  }
  const TinyTensor& Part(const std::string& part) { return checkpoint.Find(kModule + part); }
};

inline unsigned NibbleAt(const TinyTensor& tensor, std::uint64_t element) {
  const auto byte = static_cast<std::uint8_t>(tensor.bytes[element / 2]);
  return element % 2 == 0 ? byte & 0xFU : byte >> 4U;
}

inline float E2M1Value(unsigned code) {
  constexpr std::array kMagnitudes = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
  return code < 8 ? kMagnitudes[code] : -kMagnitudes[code - 8];
}

inline float ByteAt(const TinyTensor& tensor, std::uint64_t element) {
  return static_cast<float>(static_cast<std::int8_t>(tensor.bytes[element]));
}

inline TinyTensor& SetFloat(TinyTensor& tensor, float value) {
  tensor.bytes.assign(reinterpret_cast<const char*>(&value), sizeof value);
  return tensor;
}

// Positive E4M3 scales, none of them NaN.
inline void MakeE4M3Scales(TinyTensor& tensor) {
  for (char& byte : tensor.bytes) {
    byte = static_cast<char>(static_cast<unsigned char>(byte) % 0x7E + 1);
  }
}

inline std::string Compressed(const char* format, const char* weights) {
  return fmt::format(R"("quantization_config": {{"quant_method": "compressed-tensors",
      "format": "{}", "config_groups": {{"group_0": {{"weights": {}}}}}}})",
                     format, weights);
}

inline void SetConfig(Made& made, const std::string& quantization) {
  made.checkpoint.config = fmt::format(R"({{"model_type": "tiny", "torch_dtype": "bfloat16"{}{}}})",
                                       quantization.empty() ? "" : ", ", quantization);
}

inline Made PackedInt4(std::uint64_t group) {
  Made made;
  const TinyTensor codes = made.Add("weight_packed", Dtype::kI32, {kRows, kCols / 8});
  const TinyTensor scale = made.AddScale("weight_scale", Dtype::kBF16, {kRows, kCols / group});
  TinyTensor& shape = made.Add("weight_shape", Dtype::kI64, {2});
  const std::uint64_t dimensions[] = {kRows, kCols};
  shape.bytes.assign(reinterpret_cast<const char*>(dimensions), sizeof dimensions);
  SetConfig(made, Compressed("pack-quantized",
                             fmt::format(R"({{"num_bits": 4, "type": "int", "strategy": "group",
                                              "group_size": {}}})",
                                         group)
                                 .c_str()));
  made.value = [=](std::uint64_t row, std::uint64_t col) {
    const std::uint64_t i = row * kCols + col;
    return (static_cast<float>(NibbleAt(codes, i)) - 8) * ScaleValue(scale, i / group);
  };
  made.codes = "weight_packed";
  return made;
}

inline Made PackedInt4WithZeroPoints() {
  Made made = PackedInt4(32);
  SetConfig(made, Compressed("pack-quantized", R"({"num_bits": 4, "type": "int",
                       "strategy": "group", "group_size": 32, "symmetric": false})"));
  const TinyTensor zeros = made.Add("weight_zero_point", Dtype::kI32, {kRows / 8, kCols / 32});
  const TinyTensor codes = made.Part("weight_packed");
  const TinyTensor scale = made.Part("weight_scale");
  made.value = [=](std::uint64_t row, std::uint64_t col) {
    const std::uint64_t i = row * kCols + col;
    // Eight rows share a word of a column.
    const std::uint64_t word = row / 8 * (kCols / 32) + col / 32;
    const float zero = static_cast<float>(NibbleAt(zeros, word * 8 + row % 8)) - 8;
    const float code = static_cast<float>(NibbleAt(codes, i)) - 8;
    return (code - zero) * ScaleValue(scale, i / 32);
  };
  return made;
}

// The four bits of a word in which AWQ keeps the code of one of its eight columns: those with even
// numbers come first.
inline unsigned AwqNibble(const TinyTensor& tensor, std::uint64_t col) {
  const std::uint64_t of_eight = col % 8;
  return NibbleAt(tensor, col / 8 * 8 + of_eight / 2 + (of_eight % 2 == 0 ? 0 : 4));
}

// Matrices that are kept by columns: [K, N].
inline Made Awq(std::uint64_t group) {
  Made made;
  const TinyTensor codes = made.Add("qweight", Dtype::kI32, {kCols, kRows / 8});
  const TinyTensor zeros = made.Add("qzeros", Dtype::kI32, {kCols / group, kRows / 8});
  const TinyTensor scale = made.AddScale("scales", Dtype::kF16, {kCols / group, kRows});
  SetConfig(made, fmt::format(R"("quantization_config": {{"quant_method": "awq", "bits": 4,
      "group_size": {}, "zero_point": true, "version": "gemm", "modules_to_not_convert": null}})",
                              group == kCols ? -1 : static_cast<int>(group)));
  made.value = [=](std::uint64_t row, std::uint64_t col) {
    const auto code = static_cast<float>(AwqNibble(codes, col * kRows + row));
    const std::uint64_t at = col / group * kRows + row;
    return (code - static_cast<float>(AwqNibble(zeros, at))) * ScaleValue(scale, at);
  };
  made.codes = "qweight";
  return made;
}

inline Made NvFp4(bool compressed) {
  constexpr float kTensorScale = 2.7182817F;
  Made made;
  const std::string part = compressed ? "weight_packed" : "weight";
  const TinyTensor codes = made.Add(part, Dtype::kU8, {kRows, kCols / 2});
  TinyTensor& scale = made.Add("weight_scale", Dtype::kF8E4M3, {kRows, kCols / 16});
  MakeE4M3Scales(scale);
  const TinyTensor scales = scale;
  const Shape one = compressed ? Shape{1} : Shape{};
  SetFloat(made.Add(compressed ? "weight_global_scale" : "weight_scale_2", Dtype::kF32, one),
           kTensorScale);
  SetFloat(made.Add(compressed ? "input_global_scale" : "input_scale", Dtype::kF32, one), 1);
  SetConfig(made, compressed ? Compressed("nvfp4-pack-quantized",
                                          R"({"num_bits": 4, "type": "float",
                                              "strategy": "tensor_group", "group_size": 16})")
                             : "");
  if (!compressed) {
    made.checkpoint.side_files["hf_quant_config.json"] =
        R"({"quantization": {"quant_algo": "NVFP4", "group_size": 16}})";
  }
  made.value = [=](std::uint64_t row, std::uint64_t col) {
    const std::uint64_t i = row * kCols + col;
    const float group = E4M3Value(static_cast<std::uint8_t>(scales.bytes[i / 16]));
    return E2M1Value(NibbleAt(codes, i)) *
           (compressed ? group / kTensorScale : group * kTensorScale);
  };
  made.codes = part;
  return made;
}

inline Made MxFp4(bool compressed) {
  Made made;
  const std::string part = compressed ? "weight_packed" : "weight";
  const TinyTensor codes = made.Add(part, compressed ? Dtype::kU8 : Dtype::kI8, {kRows, kCols / 2});
  const TinyTensor scale =
      made.AddScale(compressed ? "weight_scale" : "scale", compressed ? Dtype::kU8 : Dtype::kF8E8M0,
                    {kRows, kCols / 32});
  SetConfig(made, compressed ? Compressed("mxfp4-pack-quantized",
                                          R"({"num_bits": 4, "type": "float",
                                              "strategy": "group", "group_size": 32})")
                             : R"("expert_dtype": "fp4")");
  made.value = [=](std::uint64_t row, std::uint64_t col) {
    const std::uint64_t i = row * kCols + col;
    return E2M1Value(NibbleAt(codes, i)) * ScaleValue(scale, i / 32);
  };
  made.codes = part;
  return made;
}

inline Made MxFp8() {
  Made made;
  TinyTensor& weight = made.Add("weight", Dtype::kF8E4M3, {kRows, kCols});
  for (char& byte : weight.bytes) byte = static_cast<char>(byte & 0xBF);  // no NaN
  const TinyTensor codes = weight;
  const TinyTensor scale = made.AddScale("weight_scale_inv", Dtype::kU8, {kRows, kCols / 32});
  SetConfig(made, R"("quantization_config": {"quant_method": "mxfp8"})");
  made.value = [=](std::uint64_t row, std::uint64_t col) {
    const std::uint64_t i = row * kCols + col;
    return E4M3Value(static_cast<std::uint8_t>(codes.bytes[i])) * ScaleValue(scale, i / 32);
  };
  made.codes = "weight";
  return made;
}

inline Made Int8Rows(Dtype scale_dtype, float offset) {
  Made made;
  const TinyTensor codes = made.Add("weight", Dtype::kI8, {kRows, kCols});
  const TinyTensor scale = made.AddScale("weight_scale", scale_dtype, {kRows, 1});
  if (offset != 0) {
    TinyTensor& offsets = made.Add("weight_offset", Dtype::kF32, {kRows, 1});
    offsets.bytes.clear();
    for (std::uint64_t row = 0; row < kRows; ++row) {
      offsets.bytes.append(reinterpret_cast<const char*>(&offset), sizeof offset);
    }
    made.checkpoint.side_files["quant_model_description.json"] = "{}";
    SetConfig(made, "");
  } else {
    SetConfig(made, Compressed("int-quantized",
                               R"({"num_bits": 8, "type": "int", "strategy": "channel"})"));
  }
  made.value = [=](std::uint64_t row, std::uint64_t col) {
    return (ByteAt(codes, row * kCols + col) - offset) * ScaleValue(scale, row);
  };
  made.codes = "weight";
  return made;
}

// Static W8A8 of msmodelslim, whose deq_scale is the weight's scale times that of the activations,
// and whose quant_bias takes back the offset of the activations.
inline Made StaticInt8Of(Dtype activations) {
  constexpr int kOffset = -7;
  Made made;
  const TinyTensor codes = made.Add("weight", Dtype::kI8, {kRows, kCols});
  const TinyTensor scale = made.AddScale("deq_scale", Dtype::kF32, {kRows});
  const TinyTensor input = made.AddScale("input_scale", activations, {1});
  SetFloat(made.Add("input_offset", Dtype::kF32, {1}), kOffset);
  made.AddScale("fa_q.scale", Dtype::kF32, {4, 1});
  made.AddScale("fa_k.offset", Dtype::kF32, {1});
  TinyTensor& bias = made.Add("quant_bias", Dtype::kI32, {kRows});
  for (std::uint64_t row = 0; row < kRows; ++row) {
    std::int32_t sum = 0;
    for (std::uint64_t col = 0; col < kCols; ++col) {
      sum += static_cast<std::int8_t>(codes.bytes[row * kCols + col]);
    }
    const std::int32_t stored = -kOffset * sum;
    std::memcpy(bias.bytes.data() + row * sizeof stored, &stored, sizeof stored);
  }
  SetConfig(made, "");
  made.value = [=](std::uint64_t row, std::uint64_t col) {
    return ByteAt(codes, row * kCols + col) * (ScaleValue(scale, row) / ScaleValue(input, 0));
  };
  made.codes = "weight";
  return made;
}

inline Made StaticInt8() { return StaticInt8Of(Dtype::kF32); }
inline Made StaticInt8OfBF16() { return StaticInt8Of(Dtype::kBF16); }

inline Made Int8Blocks() {
  Made made;
  const TinyTensor codes = made.Add("weight", Dtype::kI8, {kRows, kCols});
  const TinyTensor scale = made.AddScale("weight_scale_inv", Dtype::kF32, {2, 3});
  SetConfig(made, R"("quantization_config": {"quant_method": "blockwise_int8",
                                             "weight_block_size": [16, 100]})");
  made.value = [=](std::uint64_t row, std::uint64_t col) {
    return ByteAt(codes, row * kCols + col) * ScaleValue(scale, row / 16 * 3 + col / 100);
  };
  made.codes = "weight";
  return made;
}

inline Made W4AFp8() {
  Made made;
  const TinyTensor codes = made.Add("weight", Dtype::kI8, {kRows, kCols / 2});
  const TinyTensor scale = made.AddScale("weight_scale_inv", Dtype::kF32, {kRows, kCols / 128});
  SetFloat(made.checkpoint.Add(kTinyShard1, "model.layers.3.mlp.experts.7.w3.input_scale",
                               Dtype::kF32, {1}),
           1);
  SetConfig(made, "");
  made.checkpoint.side_files["quant_cfg.json"] = "{}";
  made.checkpoint.side_files["hf_quant_config.json"] =
      R"({"quantization": {"quant_algo": "MIXED_PRECISION"}})";
  made.value = [=](std::uint64_t row, std::uint64_t col) {
    const std::uint64_t i = row * kCols + col;
    const unsigned code = NibbleAt(codes, i);
    return (static_cast<float>(code) - (code < 8 ? 0.0F : 16.0F)) * ScaleValue(scale, i / 128);
  };
  made.codes = "weight";
  return made;
}

struct QuantizedCase {
  const char* name;
  Made (*make)();
};

inline void PrintTo(const QuantizedCase& form, std::ostream* out) { *out << form.name; }

inline const QuantizedCase kCases[] = {
    {"PackedInt4Of32", [] { return PackedInt4(32); }},
    {"PackedInt4Of128", [] { return PackedInt4(128); }},
    {"PackedInt4WithZeroPoints", PackedInt4WithZeroPoints},
    {"AwqOf64", [] { return Awq(64); }},
    {"AwqOfWholeRows", [] { return Awq(kCols); }},
    {"NvFp4OfModelOpt", [] { return NvFp4(false); }},
    {"NvFp4OfCompressedTensors", [] { return NvFp4(true); }},
    {"MxFp4OfCompressedTensors", [] { return MxFp4(true); }},
    {"MxFp4OfV4", [] { return MxFp4(false); }},
    {"MxFp8", MxFp8},
    {"Int8Rows", [] { return Int8Rows(Dtype::kBF16, 0); }},
    {"Int8RowsWithOffsets", [] { return Int8Rows(Dtype::kF32, 5); }},
    {"StaticInt8", StaticInt8},
    {"StaticInt8OfBF16", StaticInt8OfBF16},
    {"Int8Blocks", Int8Blocks},
    {"W4AFp8", W4AFp8},
};

class DequantizeTest : public ::testing::Test {
 protected:
  std::filesystem::path in() const { return dir_ / "in"; }
  std::filesystem::path out() const { return dir_ / "out"; }

  void Write(Made& made) {
    std::filesystem::remove_all(in());
    made.checkpoint.Add(kTinyShard1, "norm.weight", Dtype::kBF16, {8});
    made.checkpoint.Write(in());
  }

  Conversion Command() const { return {in(), out(), convert::DequantizeConversion()}; }

  // Expects that the checkpoint is refused with these words, naming a tensor, and nothing is
  // written.
  Error Refusal(Made& made) {
    Write(made);
    const Error error = ErrorOf([&] { Command().Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    EXPECT_FALSE(std::filesystem::exists(out() / "config.json"));
    return error;
  }

  TempDir dir_;
};

}  // namespace dsv3::testing
