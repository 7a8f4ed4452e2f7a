#include "convert/open/modelopt_description.h"

#include <string>
#include <system_error>
#include <utility>

#include <nlohmann/json.hpp>

#include "formats/checkpoint_files.h"
#include "formats/error.h"

namespace dsv3::convert {

std::optional<ModelOptDescription> ReadModelOptDescription(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "hf_quant_config.json";
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  nlohmann::json root;
  try {
    root = nlohmann::json::parse(formats::ReadSmallFile(path, formats::kMaxConfigBytes), nullptr,
                                 /*allow_exceptions=*/false);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    return std::nullopt;
  }
  if (!root.is_object()) return std::nullopt;
  const auto quantization = root.find("quantization");
  if (quantization == root.end() || !quantization->is_object()) return std::nullopt;
  ModelOptDescription description;
  const auto algorithm = quantization->find("quant_algo");
  if (algorithm == quantization->end() || !algorithm->is_string()) return std::nullopt;
  description.quant_algo = algorithm->get<std::string>();
  const auto excluded = quantization->find("exclude_modules");
  if (excluded != quantization->end() && excluded->is_array()) {
    for (const nlohmann::json& module : *excluded) {
      if (module.is_string()) description.exclude_modules.push_back(module.get<std::string>());
    }
  }
  return description;
}

}  // namespace dsv3::convert
