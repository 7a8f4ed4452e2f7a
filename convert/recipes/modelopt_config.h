#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3::convert {

inline constexpr char kHfQuantConfig[] = "hf_quant_config.json";

// What hf_quant_config.json says of the weights that ModelOpt quantised.
struct ModelOptConfig {
  std::string_view quant_algo;     // "NVFP4", "MXFP8", "MIXED_PRECISION" …
  std::uint64_t group_size = 16;   // columns that share a scale
  std::string_view cache;          // how caches of keys and values are quantised; empty: not at all
  std::vector<std::string> nvfp4;  // of MIXED_PRECISION: the modules that are NVFP4
  std::vector<std::string> exclude_modules;
};

// The file as ModelOpt 0.47 writes it, which readers ask to be its producer. The experts of a layer
// are one entry.
std::string HfQuantConfigText(const ModelOptConfig& config);

}  // namespace dsv3::convert
