#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "convert/job/runner.h"
#include "convert/layouts/stacks.h"
#include "convert/open/open_model.h"
#include "convert/recipes/model_edit.h"

// A checkpoint as training leaves it → the form that inference needs.
namespace dsv3::convert {

// What becomes of the MTP layers, of the attention's joined matrix, and of wider floats.
enum class MtpAction { kKeep, kDrop, kExtract, kGraft };
enum class MlaForm { kKeep, kSplit };
enum class TrainDtype { kBF16, kKeep };

struct TrainToInferOptions {
  MtpAction mtp = MtpAction::kKeep;
  std::filesystem::path mtp_from = {};  // of kGraft: the checkpoint that has the layers
  MlaForm mla = MlaForm::kKeep;
  TrainDtype dtype = TrainDtype::kBF16;
  std::filesystem::path config = {};  // the model's config.json; empty: the one beside the input
  std::optional<Stack> from = std::nullopt;  // whose names the tensors have; nothing: found
  std::uint64_t shard_bytes = 0;             // of shards that are new; 0: kDefaultShardBytes
};

inline constexpr char kTrainToInfer[] = "train-to-infer";

// `dsv3-convert train-to-infer`.
ConversionKind TrainToInferConversion(const TrainToInferOptions& options = {});

}  // namespace dsv3::convert
