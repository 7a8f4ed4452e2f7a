#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "formats/rank_layout.h"
#include "formats/safetensors.h"

namespace dsv3::convert {

// The files that rank shards were made from, as layout.json records them.
struct RankOriginal {
  std::vector<formats::SafetensorsHeader> headers;
  Catalog catalog;
  ModelConfig config;
};

// Throws Error (kBadInput) where headers, index, config and names of files are damaged or
// contradict each other.
RankOriginal ReadRankOriginal(const formats::RankLayout& layout);

// The bytes before a file's data, of a header that layout.json has.
std::string HeaderWithLength(const std::string& header);

// Throws Error (kBadInput): layout.json is wrong about this tensor or file.
[[noreturn]] void FailLayout(const std::string& tensor, std::string_view problem);

}  // namespace dsv3::convert
