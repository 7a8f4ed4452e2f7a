#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "convert/model/config_edit.h"
#include "convert/model/module_list.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/compressed_tensors_config.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/modelopt_config.h"
#include "convert/recipes/repack.h"
#include "convert/recipes/side_files.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"

namespace dsv3::convert {
namespace {

using formats::kConfigName;
using Json = nlohmann::json;

constexpr char kFp8Cache[] = "FP8";

// Matrices in BF16, F16 or F32 that may be linear modules: all but embeddings.
std::vector<std::string> LinearsLeft(const Catalog& catalog) {
  std::vector<std::string> modules;
  for (const CatalogTensor& tensor : catalog.tensors()) {
    const bool matrix = tensor.shape.size() == 2 && tensor.name.ends_with(".weight") &&
                        FloatFormatOf(tensor.dtype).has_value();
    if (!matrix) continue;
    const std::string_view module = ModuleOf(tensor.name);
    const std::string_view last = module.substr(module.rfind('.') + 1);
    if (last == "embed_tokens" || last == "embed" || last == "tok_embeddings") continue;
    modules.emplace_back(module);
  }
  return modules;
}

class ConfigMaker {
 public:
  ConfigMaker(const OpenedModel& model, const RepackedModel& repacked, Plan& plan)
      : model_(model), repacked_(repacked), plan_(plan), text_(model.config_text) {}

  // Edits config.json; hf_quant_config.json is empty where there is none.
  void Make() {
    const std::string cache = CacheAlgorithm();
    switch (repacked_.target) {
      case RepackTarget::kFp8:
        SayFp8();
        break;
      case RepackTarget::kNvFp4ModelOpt:
        if (repacked_.fp8_beside) {
          const std::string& member = model_.config.quantization->member;
          Set(member + "/moe_quant_algo", "\"NVFP4\"");
          // Of an earlier description; hf_quant_config.json says it now.
          Remove(member + "/quantized_layers");
          Remove(member + "/ignore");
        } else {
          Remove(QuantizationMember());
        }
        description_ = Description(cache);
        break;
      case RepackTarget::kNvFp4CompressedTensors:
        Set(QuantizationMember(), CompressedTensors(cache));
        break;
    }
  }

  const std::string& text() const { return text_; }
  const std::string& description() const { return description_; }

 private:
  std::string QuantizationMember() const {
    return model_.config.quantization ? model_.config.quantization->member : "quantization_config";
  }

  // Keeps for the manifest what is replaced.
  void Set(const std::string& member, const std::string& json) {
    if (auto before = formats::JsonMember(text_, member, kConfigName)) {
      if (*before == json) return;
      plan_.removed_config.emplace_back(member, std::move(*before));
    }
    text_ = SetConfigMember(text_, member, json);
  }

  void Remove(const std::string& member) {
    if (auto before = formats::JsonMember(text_, member, kConfigName)) {
      plan_.removed_config.emplace_back(member, std::move(*before));
      text_ = formats::RemoveJsonMember(text_, member, kConfigName);
    }
  }

  void SayFp8() {
    if (!repacked_.fp8_beside) {
      Fp8Form form;
      form.scale_fmt = quant::ScaleFmt::kUe8m0;
      TensorSelection selection;
      selection.modules_to_not_convert = LinearsLeft(model_.catalog);
      Set(QuantizationMember(), QuantizationConfigJson(form, selection));
    }
    const std::string nested = model_.config.prefix + "expert_dtype";
    const bool has_nested = formats::JsonMember(text_, nested, kConfigName).has_value();
    if (!has_nested && formats::JsonMember(text_, "expert_dtype", kConfigName)) {
      Set("expert_dtype", "\"fp8\"");
    } else if (has_nested || model_.config.model_type.starts_with("deepseek_v4")) {
      // Engines take V4's experts for FP4 where it is missing.
      Set(nested, "\"fp8\"");
    }
  }

  bool HasDescription() const {
    return std::find(model_.side_files.begin(), model_.side_files.end(), kHfQuantConfig) !=
           model_.side_files.end();
  }

  // ModelOpt's name of how the source's caches of keys and values are quantised; empty: not at all.
  std::string CacheAlgorithm() const {
    if (HasDescription()) {
      const Json root = Json::parse(
          formats::ReadSmallFile(model_.directory / kHfQuantConfig, formats::kMaxConfigBytes),
          nullptr, /*allow_exceptions=*/false);
      const Json* algorithm = nullptr;
      if (root.is_object() && root.contains("quantization") && root["quantization"].is_object() &&
          root["quantization"].contains("kv_cache_quant_algo")) {
        algorithm = &root["quantization"]["kv_cache_quant_algo"];
      }
      if (algorithm == nullptr || algorithm->is_null()) return "";
      if (*algorithm == kFp8Cache) return kFp8Cache;
      FailCache(kHfQuantConfig, "kv_cache_quant_algo", algorithm->dump());
    }
    if (!model_.config.quantization) return "";
    const auto text = formats::JsonMember(
        model_.config_text, model_.config.quantization->member + "/kv_cache_scheme", kConfigName);
    const Json scheme = text ? Json::parse(*text, nullptr, false) : Json();
    if (scheme.is_null()) return "";
    if (scheme.is_object() && scheme.value("num_bits", Json()) == 8 &&
        scheme.value("type", Json()) == "float" && scheme.value("strategy", Json()) == "tensor") {
      return kFp8Cache;
    }
    FailCache(kConfigName, "kv_cache_scheme", scheme.dump());
  }

  [[noreturn]] static void FailCache(const char* file, const char* member,
                                     const std::string& value) {
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: {} is {}, expected null or FP8 with one scale a tensor: what other "
                    "caches of keys and values are called in the new form is not known; "
                    "set it to null to leave it out",
                    file, member, QuoteForMessage(value)),
        {file, ""});
  }

  std::string Description(const std::string& cache) const {
    ModelOptConfig config;
    config.quant_algo = repacked_.fp8_beside ? "MIXED_PRECISION" : "NVFP4";
    config.cache = cache;
    if (repacked_.fp8_beside) {
      config.nvfp4 = repacked_.nvfp4;
    } else {
      config.exclude_modules = LinearsLeft(model_.catalog);
    }
    return HfQuantConfigText(config);
  }

  // The presets NVFP4 and, without scales of activations, NVFP4A16.
  std::string CompressedTensors(const std::string& cache) const {
    CompressedTensorsScheme scheme;
    scheme.format = "nvfp4-pack-quantized";
    scheme.weights = {.num_bits = 4,
                      .type = "float",
                      .strategy = "tensor_group",
                      .group_size = 16,
                      .scale_dtype = "torch.float8_e4m3fn"};
    if (repacked_.activations) {
      scheme.activations = scheme.weights;
      scheme.activations->local = true;
      scheme.activations->observer = "static_minmax";
    }
    scheme.fp8_cache = !cache.empty();
    return CompressedTensorsConfig(scheme, LinearsLeft(model_.catalog));
  }

  const OpenedModel& model_;
  const RepackedModel& repacked_;
  Plan& plan_;
  std::string text_;
  std::string description_;
};

}  // namespace

void PlanRepackSideFiles(const OpenedModel& model, const RepackedModel& repacked, bool all,
                         Plan& plan) {
  ConfigMaker config(model, repacked, plan);
  config.Make();
  PlanSideFiles(model, config.text(), {.all = all, .changes_quantization = true}, plan);
  KeepDescriptions(model.directory, plan);
  if (!config.description().empty()) PutSideFile({kHfQuantConfig, {}, config.description()}, plan);
}

}  // namespace dsv3::convert
