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
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"
#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

using Json = nlohmann::json;
using formats::JsonWriter;
using formats::kConfigName;

void Member(JsonWriter& json, std::string_view key, std::string_view value) {
  json.Key(key);
  json.String(value);
}

void NullMember(JsonWriter& json, std::string_view key) {
  json.Key(key);
  json.Null();
}

void Numbers(JsonWriter& json, std::string_view key, quant::BlockShape block) {
  json.Key(key);
  json.BeginArray();
  json.Uint(block.rows);
  json.Uint(block.cols);
  json.EndArray();
}

void Texts(JsonWriter& json, std::string_view key, const std::vector<std::string>& texts) {
  json.Key(key);
  json.BeginArray();
  for (const std::string& text : texts) json.String(text);
  json.EndArray();
}

// Members in the order of DeepSeek's configs, which is the alphabet's.
std::string DeepSeekConfig(const Fp8Form& form, const TensorSelection& selection) {
  JsonWriter json(0);
  json.BeginObject();
  Member(json, "activation_scheme", "dynamic");
  Member(json, "fmt", "e4m3");
  if (!selection.modules_to_not_convert.empty()) {
    for (const std::string& list : selection.module_lists) {
      Texts(json, list, selection.modules_to_not_convert);
    }
  }
  Member(json, "quant_method", "fp8");
  if (form.scale_fmt != quant::ScaleFmt::kF32) Member(json, "scale_fmt", "ue8m0");
  Numbers(json, "weight_block_size", form.block.shape);
  json.EndObject();
  return json.Take();
}

// The arguments that weights and activations share; the object stays open.
void BeginArguments(JsonWriter& json, std::string_view key) {
  json.Key(key);
  json.BeginObject();
}

void EndArguments(JsonWriter& json, bool dynamic, std::optional<std::uint64_t> group_size,
                  std::string_view strategy) {
  json.Key("dynamic");
  json.Bool(dynamic);
  json.Key("group_size");
  if (group_size) {
    json.Uint(*group_size);
  } else {
    json.Null();
  }
  json.Key("num_bits");
  json.Uint(8);
  Member(json, "strategy", strategy);
  json.Key("symmetric");
  json.Bool(true);
  Member(json, "type", "float");
  json.EndObject();
}

// What compressed-tensors 0.20 writes for its presets FP8_BLOCK and FP8_DYNAMIC, and for one scale
// a tensor, with sorted keys. Activations are quantised at run time.
std::string CompressedTensorsConfig(const Fp8Form& form, const TensorSelection& selection) {
  const bool blocks = form.block.form == quant::BlockForm::kBlock;
  JsonWriter json(0);
  json.BeginObject();
  json.Key("config_groups");
  json.BeginObject();
  json.Key("group_0");
  json.BeginObject();
  Member(json, "format", "float-quantized");
  BeginArguments(json, "input_activations");
  EndArguments(json, true, blocks ? std::optional(form.block.shape.cols) : std::nullopt,
               blocks ? "group" : "token");
  NullMember(json, "output_activations");
  Texts(json, "targets", {"Linear"});
  BeginArguments(json, "weights");
  if (blocks) Numbers(json, "block_structure", form.block.shape);
  EndArguments(json, false, std::nullopt,
               blocks                                      ? "block"
               : form.block.form == quant::BlockForm::kRow ? "channel"
                                                           : "tensor");
  json.EndObject();
  json.EndObject();
  Member(json, "format", "float-quantized");
  NullMember(json, "global_compression_ratio");
  Texts(json, "ignore", selection.linears_left);
  NullMember(json, "kv_cache_scheme");
  NullMember(json, "moe_sparsity_config");
  Member(json, "quant_method", "compressed-tensors");
  Member(json, "quantization_status", "compressed");
  if (form.scale_fmt != quant::ScaleFmt::kF32) Member(json, "scale_fmt", "ue8m0");
  json.Key("sparsity_config");
  json.BeginObject();
  json.EndObject();
  json.Key("transform_config");
  json.BeginObject();
  json.EndObject();
  Member(json, "version", "0.20.0");
  json.EndObject();
  return json.Take();
}

}  // namespace

std::string QuantizationConfigJson(const Fp8Form& form, const TensorSelection& selection) {
  return form.IsCompressedTensors() ? CompressedTensorsConfig(form, selection)
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
  const std::string made = QuantizationConfigJson(form, selection);
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
