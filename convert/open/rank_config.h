#pragma once

#include <string>

#include "convert/model/model_config.h"
#include "convert/parallel/slicing.h"

// config.json beside rank shards. Opening rank shards and making them both use it.
namespace dsv3::convert {

// The model's config.json for what the ranks hold: weight_block_size after --on-misaligned
// subblock, modules_to_not_convert after bf16, num_nextn_predict_layers 0 where the MTP layers that
// it counts are not there (`has_mtp` false). Every other byte is as it was. Throws Error (kUsage)
// for a quantization_config that cannot express that.
std::string ConfigForRanks(const std::string& config_text, const ModelConfig& config,
                           const Slicing& slicing, bool has_mtp);

}  // namespace dsv3::convert
