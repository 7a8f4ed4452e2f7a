#pragma once

#include <filesystem>

#include "convert/open/open_model.h"

// Files of DeepSeek's inference demo, model0-mp4.safetensors to model3-mp4.safetensors, as the
// model that they were cut from.
namespace dsv3::convert {

// The kind of a finding: the model's config.json is changed to say what the ranks hold.
inline constexpr char kDemoConfig[] = "demo-config";

// OpenModel's part for such a directory, of which a run may have freed files. The model has Hugging
// Face names and no shards of its own; its stack is "deepseek". The files do not say what the model
// is: OpenOptions::config, else the config.json beside them, is the model's own as on Hugging Face.
// The config that comes with the model says what the ranks hold: so many MTP layers, and no
// quantization_config where no weight is FP8; each such change is a warning (kDemoConfig).
// Throws Error: kBadInput for a rank that is missing or does not fit the others, a name that is not
// the demo's, a config that is the demo's own or another model's, for tensors that the config
// predicts and no rank holds, and for another OpenOptions::from; kIo. There must be a config.
OpenedModel OpenDemo(const std::filesystem::path& directory, const OpenOptions& options);

// Throws Error where there is no config: kUsage for a conversion that has an option for it, else
// kBadInput, for then the directory lacks a file.
void RequireDemoConfig(const std::filesystem::path& directory, const OpenOptions& options);

}  // namespace dsv3::convert
