#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/catalog/ceil_div.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/convert/verify/structure_test.h"

// Checkpoints whose experts are quantised in another form than FP8, as their tools write them.
namespace dsv3::testing {
using convert::CeilDiv;
using formats::Dtype;
using formats::Shape;

// The module of a matrix [rows, cols]; its weight has been removed.
struct Module {
  TinyCheckpoint& checkpoint;
  std::string shard;
  std::string base;  // its name with a dot behind it
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;

  void Add(const std::string& part, Dtype dtype, const Shape& shape) const {
    checkpoint.Add(shard, base + part, dtype, shape);
  }
};

struct Form {
  const char* test_name;
  const char* quantization;  // the config's quantization_config; empty: it has none
  const char* name;          // what messages must say
  void (*add)(const Module&);
};

inline std::ostream& operator<<(std::ostream& out, const Form& form) {
  return out << form.test_name;
}

inline constexpr char kPackedInt4[] =
    R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
        {"group_0": {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}}}})";
inline constexpr char kInt8Rows[] =
    R"({"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups":
        {"group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}}})";
inline constexpr char kInt4Bytes[] =
    R"({"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups":
        {"group_0": {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}}}})";
inline constexpr char kNvFp4Packed[] =
    R"({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups":
        {"group_0": {"weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}}}})";
inline constexpr char kMxFp4Packed[] =
    R"({"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized", "config_groups":
        {"group_0": {"weights": {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}}}})";

inline void AddPackedInt4(const Module& m) {
  m.Add("weight_packed", Dtype::kI32, {m.rows, CeilDiv(m.cols, 8)});
  m.Add("weight_scale", Dtype::kBF16, {m.rows, CeilDiv(m.cols, 32)});
  m.Add("weight_shape", Dtype::kI32, {2});
}

inline void AddAwq(const Module& m) {
  m.Add("qweight", Dtype::kI32, {m.cols, CeilDiv(m.rows, 8)});
  m.Add("qzeros", Dtype::kI32, {CeilDiv(m.cols, 128), CeilDiv(m.rows, 8)});
  m.Add("scales", Dtype::kF16, {CeilDiv(m.cols, 128), CeilDiv(m.rows, 8) * 8});
}

inline void AddGptqWithoutOrder(const Module& m) {
  m.Add("qweight", Dtype::kI32, {CeilDiv(m.cols, 8), m.rows});
  m.Add("qzeros", Dtype::kI32, {CeilDiv(m.cols, 128), CeilDiv(m.rows, 8)});
  m.Add("scales", Dtype::kF16, {CeilDiv(m.cols, 128), m.rows});
}

inline void AddGptq(const Module& m) {
  AddGptqWithoutOrder(m);
  m.Add("g_idx", Dtype::kI32, {m.cols});
}

inline void AddNvFp4(const Module& m) {
  m.Add("weight", Dtype::kU8, {m.rows, CeilDiv(m.cols, 2)});
  m.Add("weight_scale", Dtype::kF8E4M3, {m.rows, CeilDiv(m.cols, 16)});
  m.Add("weight_scale_2", Dtype::kF32, {});
  m.Add("input_scale", Dtype::kF32, {});
}

inline void AddNvFp4Packed(const Module& m) {
  m.Add("weight_packed", Dtype::kU8, {m.rows, CeilDiv(m.cols, 2)});
  m.Add("weight_scale", Dtype::kF8E4M3, {m.rows, CeilDiv(m.cols, 16)});
  m.Add("weight_global_scale", Dtype::kF32, {1});
  m.Add("input_global_scale", Dtype::kF32, {1});
}

inline void AddMxFp4Packed(const Module& m) {
  m.Add("weight_packed", Dtype::kU8, {m.rows, CeilDiv(m.cols, 2)});
  m.Add("weight_scale", Dtype::kU8, {m.rows, CeilDiv(m.cols, 32)});
}

inline void AddMxFp4OfV4(const Module& m) {
  m.Add("weight", Dtype::kI8, {m.rows, CeilDiv(m.cols, 2)});
  m.Add("scale", Dtype::kF8E8M0, {m.rows, CeilDiv(m.cols, 32)});
}

inline void AddMxFp8(const Module& m) {
  m.Add("weight", Dtype::kF8E4M3, {m.rows, m.cols});
  m.Add("weight_scale_inv", Dtype::kU8, {m.rows, CeilDiv(m.cols, 32)});
}

inline void AddW4AFp8(const Module& m) {
  m.Add("weight", Dtype::kI8, {m.rows, CeilDiv(m.cols, 2)});
  m.Add("weight_scale_inv", Dtype::kF32, {m.rows, CeilDiv(m.cols, 128)});
  // Its activation scales have names of their own.
  const std::string up = "up_proj.";
  if (!m.base.ends_with("." + up)) return;
  const std::string expert = m.base.substr(0, m.base.size() - up.size());
  m.checkpoint.Add(m.shard, expert + "w3.input_scale", Dtype::kF32, {1});
}

inline void AddInt8Rows(const Module& m) {
  m.Add("weight", Dtype::kI8, {m.rows, m.cols});
  m.Add("weight_scale", Dtype::kBF16, {m.rows, 1});
}

inline void AddInt8OfAscend(const Module& m) {
  m.Add("weight", Dtype::kI8, {m.rows, m.cols});
  m.Add("weight_scale", Dtype::kF32, {m.rows, 1});
  m.Add("weight_offset", Dtype::kF32, {m.rows, 1});
}

inline void AddInt8Blocks(const Module& m) {
  m.Add("weight", Dtype::kI8, {m.rows, m.cols});
  m.Add("weight_scale_inv", Dtype::kF32, {CeilDiv(m.rows, 128), CeilDiv(m.cols, 128)});
}

inline void AddModelOptFp8(const Module& m) {
  m.Add("weight", Dtype::kF8E4M3, {m.rows, m.cols});
  m.Add("weight_scale", Dtype::kF32, {});
  m.Add("input_scale", Dtype::kF32, {});
}

inline void AddBitsandbytesNf4(const Module& m) {
  m.Add("weight", Dtype::kU8, {CeilDiv(m.rows * m.cols, 2), 1});
  m.Add("weight.absmax", Dtype::kU8, {CeilDiv(m.rows * m.cols, 64)});
  m.Add("weight.quant_map", Dtype::kF32, {16});
  m.Add("weight.nested_absmax", Dtype::kF32, {1});
  m.Add("weight.nested_quant_map", Dtype::kF32, {256});
  m.Add("weight.quant_state.bitsandbytes__nf4", Dtype::kU8, {90});
}

inline void AddBitsandbytesInt8(const Module& m) {
  m.Add("weight", Dtype::kI8, {m.rows, m.cols});
  m.Add("SCB", Dtype::kF32, {m.rows});
  m.Add("weight_format", Dtype::kU8, {});
}

inline void AddMlx(const Module& m) {
  m.Add("weight", Dtype::kU32, {m.rows, CeilDiv(m.cols, 8)});
  m.Add("scales", Dtype::kBF16, {m.rows, CeilDiv(m.cols, 64)});
  m.Add("biases", Dtype::kBF16, {m.rows, CeilDiv(m.cols, 64)});
}

inline constexpr Form kForms[] = {
    {"PackedInt4", kPackedInt4, "packed INT4 (pack-quantized", AddPackedInt4},
    {"Awq", R"({"quant_method": "awq", "bits": 4, "group_size": 128})", "AWQ", AddAwq},
    {"AwqThatTheConfigDoesNotName", "", "AWQ", AddAwq},
    {"Gptq", R"({"quant_method": "gptq", "bits": 4, "group_size": 128})", "GPTQ", AddGptq},
    {"GptqThatTheConfigDoesNotName", "", "GPTQ", AddGptqWithoutOrder},
    {"NvFp4", "", "NVFP4 (ModelOpt", AddNvFp4},
    {"NvFp4Packed", kNvFp4Packed, "NVFP4 (compressed-tensors", AddNvFp4Packed},
    {"MxFp4Packed", kMxFp4Packed, "MXFP4 (compressed-tensors", AddMxFp4Packed},
    {"MxFp4OfV4", "", "MXFP4", AddMxFp4OfV4},
    {"MxFp8", R"({"quant_method": "mxfp8"})", "MXFP8", AddMxFp8},
    {"W4AFp8", "", "W4AFP8", AddW4AFp8},
    {"W4AFp8OneValueAByte", kInt4Bytes, "W4AFP8", AddInt8Rows},
    {"Int8Rows", kInt8Rows, "INT8", AddInt8Rows},
    {"Int8OfAscend", "", "INT8", AddInt8OfAscend},
    {"Int8Blocks", R"({"quant_method": "blockwise_int8", "weight_block_size": [128, 128]})",
     "INT8 (in blocks)", AddInt8Blocks},
    {"ModelOptFp8", "", "ModelOpt FP8", AddModelOptFp8},
    {"ModelOptFp8ThatTheConfigNames", R"({"quant_method": "modelopt", "quant_algo": "FP8"})",
     "ModelOpt FP8", AddModelOptFp8},
    {"BitsandbytesNf4", R"({"quant_method": "bitsandbytes", "load_in_4bit": true})",
     "bitsandbytes nf4", AddBitsandbytesNf4},
    {"BitsandbytesInt8", R"({"quant_method": "bitsandbytes", "load_in_8bit": true})",
     "bitsandbytes int8", AddBitsandbytesInt8},
    {"Mlx", R"({"group_size": 64, "bits": 4, "mode": "affine"})", "MLX", AddMlx},
    {"MlxThatTheConfigDoesNotName", "", "MLX", AddMlx},
};

// Whether the values of these checkpoints are decoded: groups of the other forms do not divide the
// columns of so small a model.
inline bool IsDecoded(const Form& form) {
  constexpr std::array<std::string_view, 6> kDecoded = {
      "MxFp8",    "ModelOptFp8", "Int8OfAscend", "ModelOptFp8ThatTheConfigNames",
      "Int8Rows", "Int8Blocks"};
  return std::find(kDecoded.begin(), kDecoded.end(), form.test_name) != kDecoded.end();
}

class QuantizedFormTest : public StructureTest {
 protected:
  // Everything is BF16 at first, without a quantization_config.
  QuantizedFormTest() {
    checkpoint_.DropContaining("_scale_inv");
    const auto tensors = checkpoint_.tensors;
    for (const TinyTensor& tensor : tensors) {
      if (tensor.dtype != Dtype::kF8E4M3) continue;
      checkpoint_.Drop(tensor.name);
      checkpoint_.Add(tensor.shard, tensor.name, Dtype::kBF16, tensor.shape);
    }
    checkpoint_.config =
        formats::RemoveJsonMember(checkpoint_.config, "quantization_config", "config.json");
  }

  std::filesystem::path out() const { return dir_ / "out"; }

  // Replaces every expert's weight; how many there were.
  template <typename AddParts>
  std::size_t ReplaceExperts(const AddParts& add) {
    std::size_t count = 0;
    const auto tensors = checkpoint_.tensors;
    for (const TinyTensor& tensor : tensors) {
      if (tensor.name.find(".experts.") == std::string::npos) continue;
      checkpoint_.Drop(tensor.name);
      add(Module{checkpoint_, tensor.shard, tensor.name.substr(0, tensor.name.rfind('.') + 1),
                 tensor.shape[0], tensor.shape[1]});
      ++count;
    }
    return count;
  }

  // Writes the checkpoint with experts in this form; how many there are.
  std::size_t WriteWith(const Form& form) {
    const std::size_t count = ReplaceExperts(form.add);
    if (*form.quantization != '\0') SetConfig("quantization_config", form.quantization);
    Write();
    return count;
  }

  // Expects that `call` is refused with the form's name before anything is written.
  template <typename Call>
  void ExpectRefused(const Call& call, const Form& form, const std::string& word) {
    const std::string before = DetailedListing(dir_.path());
    const Error error = ErrorOf(call);
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(),
                ::testing::AllOf(::testing::HasSubstr(form.name), ::testing::HasSubstr(word),
                                 ::testing::HasSubstr(".experts."),
                                 ::testing::Not(::testing::HasSubstr("incomplete")),
                                 ::testing::Not(::testing::HasSubstr("another model"))));
    EXPECT_EQ(DetailedListing(dir_.path()), before);
  }
};

class EachFormTest : public QuantizedFormTest, public ::testing::WithParamInterface<Form> {};

}  // namespace dsv3::testing
