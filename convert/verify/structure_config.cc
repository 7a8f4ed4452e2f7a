#include "convert/verify/structure_config.h"

#include <algorithm>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include "convert/open/modelopt_description.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::kConfigName;
using formats::kMaxConfigBytes;

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

}  // namespace

std::optional<StructureConfig> ReadStructureConfig(const fs::path& directory,
                                                   formats::Findings& findings) {
  const fs::path path = directory / kConfigName;
  std::error_code ignored;
  if (fs::symlink_status(path, ignored).type() == fs::file_type::not_found) {
    findings.push_back(ConfigFinding(
        "missing-config",
        fmt::format("{}: there is no such file, so whether tensors are missing or have wrong "
                    "shapes, dtypes or scales was not checked; copy it from where these weights "
                    "came from",
                    kConfigName)));
    return std::nullopt;
  }
  try {
    StructureConfig config;
    const std::string text = formats::ReadSmallFile(path, kMaxConfigBytes);
    config.model = ParseModelConfig(text, kConfigName);
    config.model.modelopt = ReadModelOptDescription(directory);
    config.torch_dtype = TorchDtype(text, config.model.prefix);
    return config;
  } catch (const Error& error) {
    findings.push_back(ConfigFinding(
        "unreadable-config",
        fmt::format("{}; the tensors were not compared with the config", error.message())));
    return std::nullopt;
  }
}

bool LooksQuantized(const CatalogTensor& tensor) {
  const unsigned bits = formats::DtypeBits(tensor.dtype);
  const std::string_view name = tensor.name;
  return (bits <= 8 && tensor.dtype != formats::Dtype::kBool) || name.ends_with("_packed") ||
         name.ends_with(".qweight");
}

void CheckLeftoverQuantization(const ModelConfig& config, const Catalog& catalog,
                               formats::Findings& findings) {
  if (!config.quantization) return;
  const auto& tensors = catalog.tensors();
  if (std::any_of(tensors.begin(), tensors.end(), LooksQuantized)) return;
  findings.push_back(ConfigFinding(
      "leftover-quantization-config",
      fmt::format("{}: it has a quantization_config (quant_method {}), but no tensor is quantised, "
                  "so programs would look for scales that are not there; remove "
                  "quantization_config, or take the config.json that belongs to these weights",
                  kConfigName, QuoteForMessage(config.quantization->quant_method))));
}

}  // namespace dsv3::convert
