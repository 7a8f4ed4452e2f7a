#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "convert/model/model_config.h"

namespace dsv3::convert {

// Puts a member into a config, over the one of the same path if there is one. A missing parent
// object is an error (kBadInput).
std::string SetConfigMember(const std::string& config_text, const std::string& member,
                            const std::string& json);

// Sets a number of the model's. A field that is absent counts as 0.
void SetConfigNumber(const ModelConfig& config, std::string_view field, std::uint64_t value,
                     std::string& config_text);

// Members of a config that were taken out or replaced: paths, and their values as JSON.
using RemovedConfig = std::vector<std::pair<std::string, std::string>>;

// Has the config say in which dtype the weights are ("bfloat16"): in torch_dtype and dtype, its
// newer name, wherever they are; in torch_dtype where neither is. Returns the members that had
// another value.
RemovedConfig SetConfigDtype(const ModelConfig& config, std::string_view dtype,
                             std::string& config_text);

// Text of config.json for a BF16 model: quantization_config (compression_config, expert_dtype)
// removed, torch_dtype or dtype "bfloat16", every other byte as it is. Adds to `removed` what was
// taken out.
std::string ConfigForBf16(const std::string& config_text, const ModelConfig& config,
                          RemovedConfig& removed);

// The member of the config that counts MTP layers.
inline constexpr std::string_view kMtpField = "num_nextn_predict_layers";

// Has the config count so many MTP layers. Lists with an entry for each layer (mlp_layer_types and
// so on) keep those of the main layers alone.
void SetMtpLayers(const ModelConfig& config, std::uint64_t layers, std::string& config_text);

// Gives each list of modules that quantization_config leaves as they are (modules_to_not_convert,
// ignored_layers, compressed-tensors' ignore) to `edit`, and puts what it makes of the list into
// the config. A list that is not there is given as an empty one, and written where it gets entries.
// Lists with other values than strings stay as they are.
void EditModuleLists(const ModelConfig& config,
                     const std::function<void(std::vector<std::string>& modules)>& edit,
                     std::string& config_text);

}  // namespace dsv3::convert
