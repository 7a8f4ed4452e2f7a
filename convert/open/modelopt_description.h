#pragma once

#include <filesystem>
#include <optional>

#include "convert/model/model_config.h"

namespace dsv3::convert {

// hf_quant_config.json, in which ModelOpt describes the weights of a directory. Nothing where there
// is none or it is not such a description: programs then go by config.json alone.
std::optional<ModelOptDescription> ReadModelOptDescription(const std::filesystem::path& directory);

}  // namespace dsv3::convert
