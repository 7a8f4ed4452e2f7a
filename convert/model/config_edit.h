#pragma once

#include <functional>
#include <string>
#include <vector>

#include "convert/model/model_config.h"

namespace dsv3::convert {

// Puts a member into a config, over the one of the same path if there is one. A missing parent
// object is an error (kBadInput).
std::string SetConfigMember(const std::string& config_text, const std::string& member,
                            const std::string& json);

// Gives each list of modules that quantization_config leaves as they are (modules_to_not_convert,
// ignored_layers, compressed-tensors' ignore) to `edit`, and puts what it makes of the list into
// the config. A list that is not there is given as an empty one, and written where it gets entries.
// Lists with other values than strings stay as they are.
void EditModuleLists(const ModelConfig& config,
                     const std::function<void(std::vector<std::string>& modules)>& edit,
                     std::string& config_text);

}  // namespace dsv3::convert
