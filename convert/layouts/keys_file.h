#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "formats/dtype.h"
#include "formats/shape.h"

// The keys that one build of an engine gives its tensors, dumped from its live state dict.
namespace dsv3::convert {

inline constexpr std::uint64_t kMaxKeysFileBytes = std::uint64_t{256} << 20;

struct EngineKey {
  std::string key;
  formats::Dtype dtype = formats::Dtype::kU8;
  formats::Shape shape;
  // Hugging Face names, in the order in which the engine puts them one behind the other; `key`
  // itself where the file gives none.
  std::vector<std::string> sources;
};

// Parses {key: {"dtype": …, "shape": […], "sources": [names]}}; `sources` may be absent. Dtypes are
// called as safetensors does ("F8_E4M3", "BF16") or as torch does ("torch.float8_e4m3fn",
// "bfloat16"). Members that it does not know are skipped. Keys come in the order of the file.
// Throws Error (kBadInput) for another JSON, a key or source given twice, an unknown dtype, an
// empty list of sources or of keys. `file` is the name for errors.
std::vector<EngineKey> ParseKeysFile(std::string_view text, const std::string& file);

}  // namespace dsv3::convert
