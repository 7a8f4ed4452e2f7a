#pragma once

#include <string>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "convert/open/rank_directory.h"
#include "convert/open/rank_shards.h"

// The model that rank shards hold. Internal to OpenModel and to the check of rank shards.
namespace dsv3::convert {

struct RankModel {
  RankShards shards;
  Catalog catalog;  // of the model
  std::string config_text;
  ModelConfig config;
};

// Puts the tensors of the original headers together from the ranks' slices: the slices give every
// tensor exactly once, except tensors that were dropped. The model is then the original, its
// headers, index and config included. Where tensors were dropped or became BF16, the model has the
// tensors that the ranks hold: in the original's shards, under new headers and a new index, with a
// config that says so; weights that became BF16 have no scales. The content of `ranks` moves to
// the model. Throws Error (kBadInput) that names the tensor and what to do; `ranks` is then as it
// was.
RankModel AssembleRankModel(RankDirectory& ranks);

}  // namespace dsv3::convert
