#pragma once

#include <filesystem>
#include <string>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "convert/open/rank_directory.h"
#include "convert/open/rank_shards.h"
#include "formats/finding.h"

// The model that rank shards hold. Internal to OpenModel and to the check of rank shards.
namespace dsv3::convert {

struct RankModel {
  std::filesystem::path directory;
  RankShards shards;
  Catalog catalog;  // of the model
  std::string config_text;
  ModelConfig config;
  formats::Findings warnings;
};

// Puts the tensors of the original headers together from the ranks' slices: the slices give every
// tensor exactly once, except tensors that were dropped. The model is then the original, its
// headers, index and config included. Where tensors were dropped or became BF16, the model has the
// tensors that the ranks hold: in the original's shards, under new headers and a new index, with a
// config that says so; weights that became BF16 have no scales. Throws Error (kBadInput) that names
// the tensor and what to do.
RankModel AssembleRankModel(RankDirectory ranks);

}  // namespace dsv3::convert
