#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/open/gguf_architecture.h"
#include "convert/open/open_model.h"
#include "convert/plan/gguf_file.h"
#include "formats/gguf_value.h"

namespace dsv3::convert {

// The keys of a GGUF file that follow from config.json and generation_config.json: everything but
// the tokenizer. `name` is the model's, `file_type` llama.cpp's number of what the weights are.
// Throws Error (kBadInput) that names the field for a rope_type, a router or groups of experts that
// llama.cpp does not have, and for a config without max_position_embeddings.
formats::GgufKeys ModelGgufKeys(const OpenedModel& model, const GgufTarget& target,
                                const std::string& name, std::uint32_t file_type);

// The key general.size_label, as llama.cpp's converter writes it: "4x1.3M" are 4 experts, and 1.3
// million weights of one of them and of all else. `tensors` are those
// of the file.
void AddSizeLabel(const std::vector<GgufPlanned>& tensors, formats::GgufKeys& keys);

}  // namespace dsv3::convert
