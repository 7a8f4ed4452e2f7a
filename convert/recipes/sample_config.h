#pragma once

#include <string>
#include <utility>
#include <vector>

#include "convert/recipes/sample.h"

// What samples say of themselves. Internal to the sample.
namespace dsv3::convert {

// config.json of a preset, which decides everything else.
std::string SampleConfig(SamplePreset preset);

// Descriptions of the quantised weights beside config.json: names and texts.
std::vector<std::pair<std::string, std::string>> SampleDescriptions(SamplePreset preset);

}  // namespace dsv3::convert
