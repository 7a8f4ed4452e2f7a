#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quant/dequantize.h"

// The quantization_config that compressed-tensors 0.20 writes.
namespace dsv3::convert {

// How weights or activations are quantised.
struct CompressedTensorsArguments {
  std::uint64_t num_bits = 8;
  std::string_view type = "int";        // or "float"
  std::string_view strategy = "token";  // "channel", "group", "tensor_group", "block", "tensor"
  std::optional<std::uint64_t> group_size = {};
  std::optional<quant::BlockShape> block_structure = {};
  std::string_view scale_dtype = {};  // "torch.uint8"; empty: not said
  // At run time; of "local" (NVFP4's activations) the tensor's scale is known before.
  bool dynamic = false;
  bool local = false;
  std::string_view observer = {};  // empty: not said
};

struct CompressedTensorsScheme {
  std::string_view format;  // "int-quantized"
  CompressedTensorsArguments weights;
  std::optional<CompressedTensorsArguments> activations = {};  // nothing: stay as they are
  bool fp8_cache = false;           // keys and values are kept in FP8, with one scale a tensor
  std::string_view scale_fmt = {};  // not the library's: "ue8m0" of FP8; empty: not said
};

// The value as one line of JSON, keys sorted: one group of all linear layers but those in `ignore`.
std::string CompressedTensorsConfig(const CompressedTensorsScheme& scheme,
                                    const std::vector<std::string>& ignore);

}  // namespace dsv3::convert
