#pragma once

#include <string>

#include <fmt/format.h>

// Configs of quantised checkpoints for tests, of no known model.
namespace dsv3::testing {

// `members` are further ones of quantization_config, each after a comma.
inline std::string Fp8Config(const std::string& members) {
  return fmt::format(R"({{"quantization_config": {{"quant_method": "fp8"{}}}}})", members);
}

// A config of compressed-tensors with one group.
inline std::string CompressedConfig(const std::string& weights,
                                    const char* format = "float-quantized",
                                    const char* member = "quantization_config") {
  return fmt::format(
      R"({{"{}": {{"quant_method": "compressed-tensors", "format": "{}", "ignore": ["lm_head"],
          "config_groups": {{"group_0": {{"targets": ["Linear"],
              "weights": {{"num_bits": 8, "type": "float", {}}}}}}}}}}})",
      member, format, weights);
}

}  // namespace dsv3::testing
