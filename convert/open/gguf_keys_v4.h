#pragma once

#include "convert/open/open_model.h"
#include "formats/gguf_value.h"

namespace dsv3::convert {

// Adds the keys of architecture deepseek4. Throws Error (kBadInput) that names the field for a
// config without one that llama.cpp needs, and for a router, a rope_type or compressors that it
// does not have.
void AddV4GgufKeys(const OpenedModel& model, formats::GgufKeys& keys);

}  // namespace dsv3::convert
