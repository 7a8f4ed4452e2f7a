#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "formats/shape.h"

// The forms of quantised weights beside FP8 with scales: INT4 pack-quantized, AWQ, GPTQ, NVFP4,
// MXFP4, MXFP8, W4AFP8, INT8, ModelOpt FP8, bitsandbytes. Only the table in form_table.cc
// distinguishes them, by the tensors beside a weight, by config.json and by ModelOpt's
// hf_quant_config.json. Headers only; thread-safe.
namespace dsv3::convert {

// How a form stores the codes of a matrix [N, K] in a tensor.
enum class CodeLayout {
  kPlain,       // [N, K]
  kTwoInByte,   // [N, ⌈K / 2⌉] bytes
  kTwoRows,     // [⌈N / 2⌉, K] bytes
  kWordsOfRow,  // [N, ⌈K · bits / 32⌉] words
  kAwq,         // [K, N · bits / 32] words
  kGptq,        // [K · bits / 32, N] words
  kFlat,        // [N · K / 2, 1] bytes
  kUnknown,
};

struct QuantizedForm {
  std::string name;  // for people, without "weights": "NVFP4 (E2M1, two values a byte)"
  CodeLayout layout = CodeLayout::kPlain;
  std::uint64_t bits = 0;  // of a code in a word; 0: the config does not say
  std::string scale;       // the tensor without which the codes mean nothing; may be missing
};

// The form of the tensor at a position when it holds codes of one of these forms; nothing for
// FP8 weights with scales that the conversions read, for plain weights and for every other tensor.
std::optional<QuantizedForm> RecogniseForm(const Catalog& catalog, const ModelConfig& config,
                                           std::uint32_t position);

// A tensor that holds codes in place of a weight, and its form.
struct StoredCodes {
  std::uint32_t position = 0;
  QuantizedForm form;
};

// The codes of the weight "….weight", under this name or the one that its form gives them
// ("….weight_packed", "….qweight").
std::optional<StoredCodes> FindCodes(const Catalog& catalog, const ModelConfig& config,
                                     std::string_view weight);

// How many values codes of so many elements hold, padding included.
std::uint64_t ValuesIn(const QuantizedForm& form, std::uint64_t elements);

// The shapes that the codes of a matrix may have, the usual one first.
std::vector<formats::Shape> CodeShapes(const QuantizedForm& form, std::uint64_t rows,
                                       std::uint64_t cols);

// The names of the tensors that any form keeps beside the weight "….weight" or in its place,
// without the weight's own name.
std::vector<std::string> NamesBesideWeight(std::string_view weight);

// How many weights of a checkpoint have a form.
struct FormCount {
  std::string name;  // QuantizedForm::name
  std::uint64_t weights = 0;
  // Whether their values are made of the codes. False, too, where no values are looked at.
  bool decoded = false;
};

// Counts one weight more. Returns the position of its form in `forms`, which keep the order in
// which they were first counted.
std::uint32_t CountForm(std::string_view name, bool decoded, std::vector<FormCount>& forms);

}  // namespace dsv3::convert
