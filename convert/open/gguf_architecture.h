#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "convert/model/model_config.h"

namespace dsv3::convert {

// What becomes of MTP layers.
enum class GgufMtp { kDrop, kKeep };

// The architectures of llama.cpp that to-gguf writes.
enum class GgufArchitecture {
  kDeepSeek2,   // DeepSeek-V2, V3, R1, Kimi K2, Moonlight
  kDeepSeek32,  // V3.2: with an indexer
  kGlmDsa,      // GLM-5: the same
  kDeepSeek4,   // V4
};

// Its name in the file: "deepseek2".
std::string_view NameOfGgufArchitecture(GgufArchitecture architecture);

// What a GGUF file is to hold of a model.
struct GgufTarget {
  GgufArchitecture architecture = GgufArchitecture::kDeepSeek2;
  std::uint64_t mtp_layers = 0;

  // Whether it is one of V3's names and keys with an indexer beside them.
  bool has_indexer() const {
    return architecture == GgufArchitecture::kDeepSeek32 ||
           architecture == GgufArchitecture::kGlmDsa;
  }
};

// The target of a model. Where `mtp` is not given, MTP layers are kept as llama.cpp's converter
// does it: those of V3.2 and GLM-5. Throws Error (kBadInput) for a model that llama.cpp has no
// architecture for, and for MTP layers that are to be kept where there are none, more than the one
// that llama.cpp takes, or those of V4, which it has in another file.
GgufTarget GgufTargetOf(const ModelConfig& config, std::optional<GgufMtp> mtp);

}  // namespace dsv3::convert
