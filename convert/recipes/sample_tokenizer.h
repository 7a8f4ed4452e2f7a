#pragma once

#include <string>

// A tokenizer that any tool can load: one token for each byte, and three special ones. It is there
// in place of DeepSeek's, which is 7 MB.
namespace dsv3::convert {

std::string SampleTokenizer();        // tokenizer.json
std::string SampleTokenizerConfig();  // tokenizer_config.json

}  // namespace dsv3::convert
