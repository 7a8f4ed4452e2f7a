#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "convert/open/open_model.h"
#include "formats/freed_shard.h"

// Files of DeepSeek's inference demo, model0-mp4.safetensors to model3-mp4.safetensors, as the
// model that they were cut from.
namespace dsv3::convert {

struct DemoModel {
  // Under Hugging Face names, in new shards; ranks->layout is empty.
  OpenedModel model;
  // From the original, in sentences; the last ones, from `config_differences` on, are of the
  // config.
  std::vector<std::string> differences;
  std::size_t config_differences = 0;
};

// Opens the directory, of which a run may have freed files; `config` is the model's own
// config.json, as Hugging Face names its fields. Empty: the one in the directory. The config that
// comes with the model says what the ranks hold: so many MTP layers, and no quantization_config
// where no weight is FP8. Throws Error: kUsage where there is no config, kBadInput for a rank that
// is missing or does not fit the others, a name that is not the demo's, a config that is the demo's
// own or another model's, and for tensors that the config predicts and no rank holds; kIo.
DemoModel OpenDemoModel(const std::filesystem::path& input, const std::filesystem::path& config,
                        const std::vector<formats::FreedShard>& freed = {});

}  // namespace dsv3::convert
