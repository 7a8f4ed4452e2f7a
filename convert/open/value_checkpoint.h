#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "convert/model/scaled_weights.h"
#include "formats/checkpoint_files.h"
#include "formats/finding.h"

// A checkpoint whose values are to be read; an internal part of numeric.h and compare.h.
namespace dsv3::convert {

struct ValueCheckpoint {
  std::filesystem::path directory;  // absolute
  Catalog catalog;
  ModelConfig config;    // all defaults where there is no config.json
  ScaledWeights scaled;  // its findings and what it does not support left alone
  // Errors of files, index and config, and what FindUnfinished, FindMissingFiles and
  // FindMissingTensors say of the directory.
  formats::Findings files;
};

// Reads headers, index and config. Faults of single files become findings, and their tensors are
// left out; of a tensor in two shards the first is kept. Throws Error like
// formats::OpenCheckpointFiles, and kBadInput for rank shards and unfinished conversions.
ValueCheckpoint OpenForValues(const std::filesystem::path& path);

// Throws the first of the errors in `files` as an Error (kBadInput), with the number of others.
void RequireWhole(const ValueCheckpoint& checkpoint);

}  // namespace dsv3::convert
