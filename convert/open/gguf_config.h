#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/model/model_config.h"
#include "convert/open/gguf_model.h"

namespace dsv3::convert {

// What the keys of GGUF files say of their model's tensors.
struct GgufConfig {
  // Predicts the tensors under their Hugging Face names (ExpectedTensors); nothing for other
  // architectures than those of gguf_names.h, and where a key is missing or of no use. Which
  // tensors llama.cpp can be without, the files decide: the router's bias, an MTP layer's copies of
  // embedding and head, and the head.
  std::optional<ModelConfig> config;
  // Whether the architecture is one of these; then, of the keys that a prediction needs, those that
  // are missing, and why those that are there predict nothing (a sentence; empty: they do).
  bool known = false;
  std::vector<std::string> missing;
  std::string problem;
};

GgufConfig ReadGgufConfig(const GgufModel& model);

// "deepseek2"; empty where the files do not say it.
std::string_view GgufArchitectureOf(const GgufModel& model);

}  // namespace dsv3::convert
