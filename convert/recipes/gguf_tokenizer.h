#pragma once

#include <filesystem>

#include "convert/model/model_config.h"
#include "formats/gguf_value.h"

namespace dsv3::convert {

// The keys of a GGUF file that hold the tokenizer: tokens with their types, merges, special tokens
// and the chat template, from tokenizer.json, tokenizer_config.json, config.json and
// chat_template.jinja in `directory`; where there is no tokenizer.json from Kimi's tiktoken.model.
// Tokens up to the config's vocab_size that the tokenizer does not have are "[PADi]". Throws Error
// (kBadInput) where there is neither, and for a tokenizer that is not byte-level BPE, is malformed
// or has more tokens than the model; kIo.
formats::GgufKeys TokenizerGgufKeys(const std::filesystem::path& directory,
                                    const ModelConfig& config, const std::string& config_text);

}  // namespace dsv3::convert
