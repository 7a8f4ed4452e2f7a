#pragma once

#include <cstdint>
#include <optional>

#include "convert/job/runner.h"
#include "convert/open/gguf_architecture.h"
#include "convert/open/open_model.h"
#include "formats/gguf_type.h"

// A model of any form → one GGUF file.
namespace dsv3::convert {

struct ToGgufOptions {
  std::optional<formats::GgufType> type = {};  // F32, F16, BF16 or Q8_0; needed
  bool keep_4bit = false;  // INT4 becomes Q4_0 and E2M1 with E8M0 scales MXFP4, exactly
  std::optional<GgufMtp> mtp = std::nullopt;  // nothing: as llama.cpp's converter does it
  std::uint64_t max_file_bytes = 0;           // of tensors; 0: one file
  bool no_tokenizer = false;
};

// `dsv3-convert to-gguf`; the output is a file.
ConversionKind ToGgufConversion(const ToGgufOptions& options);

}  // namespace dsv3::convert
