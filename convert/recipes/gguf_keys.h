#pragma once

#include <string>

#include "convert/open/open_model.h"
#include "formats/gguf_type.h"
#include "formats/gguf_value.h"

namespace dsv3::convert {

// The keys of a GGUF file that follow from config.json and generation_config.json, architecture
// deepseek2: everything but the tokenizer. `name` is the model's. Throws Error (kBadInput) for an
// architecture, a rope_type or a router that llama.cpp's deepseek2 does not have, and for a config
// without max_position_embeddings.
formats::GgufKeys ModelGgufKeys(const OpenedModel& model, const std::string& name,
                                formats::GgufType type);

}  // namespace dsv3::convert
