#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/layouts/layout_tensors.h"
#include "convert/model/model_config.h"

// The legacy checkpoints of Megatron-Core (mp_rank_* files): each file holds what one rank had,
// with layers counted within its pipeline stage and experts within its expert parallel rank.
namespace dsv3::convert {

// How many ranks there were, as the files' own arguments say.
struct MegatronSizes {
  std::uint64_t tensor = 1;
  std::uint64_t pipeline = 1;
  std::uint64_t virtual_stages = 1;  // of a pipeline rank
  std::uint64_t expert = 1;
  std::uint64_t expert_tensor =
      1;  // expert_tensor_parallel_size; that of `tensor` where it is None

  friend bool operator==(const MegatronSizes&, const MegatronSizes&) = default;
};

// The model of one file, or one of its virtual stages (model0, model1 …).
struct MegatronRank {
  std::string file;  // for messages
  std::uint64_t tensor = 0;
  std::uint64_t pipeline = 0;
  std::uint64_t virtual_stage = 0;
  std::uint64_t expert = 0;
  std::vector<StackTensor> tensors;  // in the names of the rank's modules
};

// Two tensors that must hold the same values: positions as those of parts.
struct EqualTensors {
  std::uint32_t first = 0;
  std::uint32_t second = 0;
};

// The tensors of the ranks as those of a model. The sources of parts are positions among the
// tensors of all ranks, one rank after the other; parts may lie side by side.
struct RankReading {
  LayoutReading model;
  std::vector<EqualTensors> copies;  // what several ranks hold
};

// Not every combination of tensor and expert rank has a file, but each rank of each kind has one.
//
// Throws Error (kBadInput) that names file and tensor: a rank beyond the sizes or twice; a pipeline
// stage, or a tensor or expert rank of one, that no file is of; slices of a tensor that are missing
// or have different shapes; a layer or an expert beyond those of the model or a rank; and as
// ReadLayout does for what the slices make.
RankReading ReadMegatronRanks(const ModelConfig& config, const MegatronSizes& sizes,
                              const std::vector<MegatronRank>& ranks);

}  // namespace dsv3::convert
