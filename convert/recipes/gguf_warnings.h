#pragma once

#include "convert/open/gguf_architecture.h"
#include "convert/open/open_model.h"
#include "formats/finding.h"

namespace dsv3::convert {

// Warnings of kind "llama-cpp-differs", one for each thing that config.json says of the arithmetic
// and that llama.cpp computes otherwise, whatever keys the file has: the numbers of YaRN that its
// loader does not read, and the choice of groups of experts of DeepSeek-V2. None for V4. Throws as
// ParseForwardConfig.
formats::Findings GgufWarnings(const OpenedModel& model, const GgufTarget& target);

}  // namespace dsv3::convert
