#include "convert/verify/structure_config.h"

#include <algorithm>
#include <array>
#include <string_view>

#include <fmt/format.h>

#include "convert/model/stored_instead.h"
#include "formats/checkpoint_files.h"
#include "formats/dtype_kind.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"

namespace dsv3::convert {
namespace {

using formats::kConfigName;

formats::Finding ConfigFinding(std::string_view kind, std::string message) {
  return {.severity = formats::Severity::kError,
          .kind = std::string(kind),
          .file = kConfigName,
          .tensor = {},
          .message = std::move(message),
          .unreadable = false};
}

// "bfloat16"; empty when absent or no string.
std::string TorchDtype(const std::string& text, const std::string& prefix) {
  const std::string file(kConfigName);
  for (const std::string& where : {prefix, std::string()}) {
    for (const std::string_view key : {"torch_dtype", "dtype"}) {
      const std::optional<std::string> value =
          formats::JsonMember(text, where + std::string(key), file);
      if (value && value->size() > 2 && value->front() == '"') {
        return value->substr(1, value->size() - 2);
      }
    }
  }
  return "";
}

// Numbers that programs compute with, which no check of shapes looks at.
void CheckFiniteNumbers(const OpenedModel& model, formats::Findings& findings) {
  constexpr std::array<std::string_view, 12> kNumbers = {"rms_norm_eps",
                                                         "rope_theta",
                                                         "routed_scaling_factor",
                                                         "rope_scaling/factor",
                                                         "rope_scaling/beta_fast",
                                                         "rope_scaling/beta_slow",
                                                         "rope_scaling/mscale",
                                                         "rope_scaling/mscale_all_dim",
                                                         "rope_parameters/rope_theta",
                                                         "rope_parameters/factor",
                                                         "rope_parameters/mscale",
                                                         "rope_parameters/mscale_all_dim"};
  const std::string file(kConfigName);
  for (const std::string_view number : kNumbers) {
    const std::string name = model.config.prefix + std::string(number);
    const std::optional<std::string> value = formats::JsonMember(model.config_text, name, file);
    if (!value || (*value != "NaN" && *value != "Infinity" && *value != "-Infinity")) continue;
    findings.push_back(ConfigFinding(
        "number-not-finite",
        fmt::format("{}: the field {} is {}, expected a finite number; take the config.json that "
                    "belongs to the weights",
                    kConfigName, QuoteForMessage(name), *value)));
  }
}

}  // namespace

std::optional<StructureConfig> ConfigOf(const OpenedModel& model, formats::Findings& findings) {
  if (!model.has_config) {
    findings.push_back(ConfigFinding(
        "missing-config",
        fmt::format("{}: there is no such file, so whether tensors are missing or have wrong "
                    "shapes, dtypes or scales was not checked; copy it from where these weights "
                    "came from, or name it with --config FILE",
                    kConfigName)));
    return std::nullopt;
  }
  if (model.config_fault) {
    findings.push_back(
        ConfigFinding("unreadable-config", fmt::format("{}; the tensors were not compared with the "
                                                       "config",
                                                       model.config_fault->message())));
    return std::nullopt;
  }
  StructureConfig config{model.config, ""};
  try {
    CheckFiniteNumbers(model, findings);
    config.torch_dtype = TorchDtype(model.config_text, model.config.prefix);
  } catch (const Error& error) {
    // What conversions refuse as well, such as a byte order mark.
    findings.push_back(ConfigFinding("unreadable-config", error.message()));
  }
  return config;
}

namespace {

// Whether a tensor holds quantised weights by its dtype or name.
bool LooksQuantized(const CatalogTensor& tensor) {
  const unsigned bits = formats::DtypeBits(tensor.dtype);
  const std::string_view name = tensor.name;
  return (bits <= 8 && tensor.dtype != formats::Dtype::kBool) || name.ends_with("_packed") ||
         name.ends_with(".qweight") || tensor.dtype == formats::Dtype::kU32;
}

}  // namespace

void CheckLeftoverQuantization(const ModelConfig& config, const Catalog& catalog,
                               formats::Findings& findings) {
  if (!config.quantization) return;
  // A method that is not known here may have its codes in any integers.
  const bool any_integers = !IsKnownMethod(config);
  const auto& tensors = catalog.tensors();
  if (std::any_of(tensors.begin(), tensors.end(), [&](const CatalogTensor& tensor) {
        return LooksQuantized(tensor) || (any_integers && formats::IsInteger(tensor.dtype));
      })) {
    return;
  }
  findings.push_back(ConfigFinding(
      "leftover-quantization-config",
      fmt::format("{}: it has a quantization_config (quant_method {}), but no tensor is quantised, "
                  "so programs would look for scales that are not there; remove "
                  "quantization_config, or take the config.json that belongs to these weights",
                  kConfigName, QuoteForMessage(config.quantization->quant_method))));
}

}  // namespace dsv3::convert
