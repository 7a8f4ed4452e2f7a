#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "convert/recipes/bf16_to_fp8.h"
#include "formats/dtype.h"
#include "formats/shape.h"
#include "quant/encode.h"

// What quantize can write: a table with a row for each form and tool.
namespace dsv3::convert {

// Of quantize: the form, the tool whose formulas make it, and which weights take it.
enum class QuantizeTo { kInt8, kInt8Block, kInt4, kNvFp4, kMxFp4, kMxFp8, kFp8 };
enum class QuantizeTool { kLlmCompressor, kModelOpt, kDeepSeek };
enum class QuantizeModules { kLinear, kExperts };

struct QuantizeOptions {
  std::optional<QuantizeTo> to = {};  // must be given, unless `scales_from` is
  // What is not given is as the form's first row in the table of targets has it.
  std::optional<QuantizeTool> tool = {};
  std::optional<QuantizeModules> modules = {};
  std::filesystem::path scales_from = {};  // the original, which alone says the form; empty: none
};

// A tensor beside the codes whose bytes follow from the weight's shape.
struct ConstantPart {
  std::string_view part;  // last component of its name
  formats::Dtype dtype = formats::Dtype::kI64;
  formats::Shape shape;
  std::vector<std::byte> bytes;
};

// How the output says what its weights are. Empty where the tool writes no such text.
struct QuantizedConfig {
  std::string quantization_config;  // the member of config.json, as one line of JSON
  std::string hf_quant_config;      // the file hf_quant_config.json
};

struct QuantizeTarget {
  QuantizeTo to = QuantizeTo::kInt8;
  QuantizeTool tool = QuantizeTool::kLlmCompressor;
  std::string_view name;                               // for people: "INT8"
  QuantizeModules modules = QuantizeModules::kLinear;  // unless --modules says otherwise
  const quant::EncodeRule& (*rule)() = nullptr;
  // The last components of the tensors' names, and their dtypes. The codes of a row of K values are
  // in K × (bits of a code) / (bits of the dtype) elements; there is one scale for each block.
  std::string_view codes = "weight";
  formats::Dtype codes_dtype = formats::Dtype::kI8;
  std::string_view scale = "weight_scale";
  std::optional<formats::Dtype> scale_dtype = {};  // where it is not that of the rule's format
  // The scale of the tensor, where the rule has one: F32 of shape [], or [1].
  std::string_view tensor_scale = {};
  bool tensor_scale_is_vector = false;
  // Whether the tensor scale of a gate or up projection is that of its partner (GateUpPartner), by
  // the module's name; nullptr: of none.
  bool (*shares_gate_up)(std::string_view module) = nullptr;
  // Further tensors; nullptr: none.
  std::vector<ConstantPart> (*constants)(std::uint64_t rows, std::uint64_t cols) = nullptr;
  QuantizedConfig (*config)(const TensorSelection& selection) = nullptr;
  // Of FP8: weights may be experts in one tensor, and lists of modules not to convert are honoured.
  std::optional<Fp8Form> fp8 = {};
};

// Of the rows with the same `to` the first one is the default.
std::span<const QuantizeTarget> QuantizeTargets();

// The row that options name. Throws Error (kUsage) where the tool does not write the form, naming
// those that do.
const QuantizeTarget& TargetOf(const QuantizeOptions& options);

// The words of the options: "int8-block", "llm-compressor", "experts".
std::string_view QuantizeToName(QuantizeTo to);
std::string_view QuantizeToolName(QuantizeTool tool);
std::string_view QuantizeModulesName(QuantizeModules modules);

}  // namespace dsv3::convert
