#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "convert/model/config_edit.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/compressed_tensors_config.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"
#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

using Json = nlohmann::json;
using formats::JsonWriter;
using formats::kConfigName;

// Members in the order of DeepSeek's configs, which is the alphabet's.
std::string DeepSeekConfig(const Fp8Form& form, const TensorSelection& selection) {
  JsonWriter json(0);
  json.BeginObject();
  json.String("activation_scheme", "dynamic");
  json.String("fmt", "e4m3");
  if (!selection.modules_to_not_convert.empty()) {
    for (const std::string& list : selection.module_lists) {
      json.Strings(list, selection.modules_to_not_convert);
    }
  }
  json.String("quant_method", "fp8");
  if (form.scale_fmt != quant::ScaleFmt::kF32) json.String("scale_fmt", "ue8m0");
  json.Uints("weight_block_size", {form.block.shape.rows, form.block.shape.cols});
  json.EndObject();
  return json.Take();
}

// What compressed-tensors 0.20 writes for its presets FP8_BLOCK and FP8_DYNAMIC, and for one scale
// a tensor. Activations are quantised at run time.
std::string CompressedTensorsFp8Config(const Fp8Form& form, const TensorSelection& selection) {
  CompressedTensorsScheme scheme;
  scheme.format = "float-quantized";
  CompressedTensorsArguments activations{.num_bits = 8, .type = "float", .dynamic = true};
  scheme.weights = {.num_bits = 8, .type = "float"};
  switch (form.block.form) {
    case quant::BlockForm::kBlock:
      activations.strategy = "group";
      activations.group_size = form.block.shape.cols;
      scheme.weights.strategy = "block";
      scheme.weights.block_structure = form.block.shape;
      break;
    case quant::BlockForm::kRow:
      activations.strategy = "token";
      scheme.weights.strategy = "channel";
      break;
    case quant::BlockForm::kTensor:
      activations.strategy = "token";
      scheme.weights.strategy = "tensor";
      break;
  }
  scheme.activations = activations;
  if (form.scale_fmt != quant::ScaleFmt::kF32) scheme.scale_fmt = "ue8m0";
  return CompressedTensorsConfig(scheme, selection.linears_left);
}

}  // namespace

std::string QuantizationConfigJson(const Fp8Form& form, const TensorSelection& selection) {
  return form.IsCompressedTensors() ? CompressedTensorsFp8Config(form, selection)
                                    : DeepSeekConfig(form, selection);
}

std::optional<KeptQuantization> QuantizationOf(const std::string& config_text,
                                               const ModelConfig& config) {
  if (!config.quantization) return std::nullopt;
  std::optional<std::string> json =
      formats::JsonMember(config_text, config.quantization->member, kConfigName);
  if (!json) return std::nullopt;
  return KeptQuantization{config.quantization->member, std::move(*json)};
}

QuantizationConfig ParseKeptQuantization(const KeptQuantization& kept, const std::string& file) {
  const ModelConfig config = ParseModelConfig("{\"quantization_config\": " + kept.json + "}", file);
  return config.quantization.value_or(QuantizationConfig());
}

std::string ConfigForFp8(const std::string& config_text, const ModelConfig& config,
                         const Fp8Form& form, const TensorSelection& selection,
                         const std::optional<KeptQuantization>& kept) {
  return WithFp8Experts(
      SetQuantizationConfig(config_text, config, QuantizationConfigJson(form, selection), kept),
      config);
}

std::string WithFp8Experts(const std::string& config_text, const ModelConfig& config) {
  if (!config.model_type.starts_with("deepseek_v4")) return config_text;
  return SetConfigMember(config_text, config.prefix + "expert_dtype", "\"fp8\"");
}

std::string SetQuantizationConfig(const std::string& config_text, const ModelConfig& config,
                                  const std::string& made,
                                  const std::optional<KeptQuantization>& kept) {
  std::string member = "quantization_config";
  if (const auto stale = QuantizationOf(config_text, config)) {
    member = stale->member;
  } else if (kept) {
    member = kept->member;
  }
  // As JSON values, whatever the order of members and the spelling.
  const bool fits = kept && Json::parse(kept->json, nullptr, false) == Json::parse(made);
  return SetConfigMember(config_text, member, fits ? kept->json : made);
}

}  // namespace dsv3::convert
