#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/freed_shard.h"

// What a training checkpoint is made of, by the names of its files.
namespace dsv3::convert {

inline constexpr char kParameterMap[] = "param_name_map.json";
// Of Megatron's format torch: how the folder of a rank begins, and the file in it.
inline constexpr char kMegatronRankStart[] = "mp_rank_";
inline constexpr char kMegatronRankFile[] = "model_optim_rng.pt";

struct TrainingPlace {
  enum class Kind {
    kTorchFiles,        // files of torch.save, which hold the tensors of one model together
    kDcp,               // a directory of torch.distributed.checkpoint: .metadata and *.distcp
    kDcpSafetensors,    // the same as safetensors: shard-00001-model-00001-of-00002.safetensors
    kNamedSafetensors,  // MindSpore's safetensors files, which kParameterMap lists
    kSafetensors,       // files in the form of a Hugging Face checkpoint, with a trainer's names
    kMegatronRanks,     // Megatron's format torch: mp_rank_00_001/model_optim_rng.pt
  };
  Kind kind = Kind::kTorchFiles;
  std::filesystem::path directory;  // of the files; absolute
  std::vector<std::string> files;   // relative names, sorted; empty for kDcp
  // Files that an unfinished run freed; a reader takes them as if they were there.
  std::vector<formats::FreedShard> freed = {};
};

// The training checkpoint at `input`: a file of torch.save, a directory of one of the kinds, or a
// directory of Megatron's iterations, of which latest_checkpointed_iteration.txt names one. Nothing
// where there is none, or where a checkpoint of safetensors lies in the directory, too. One of
// Megatron's ranks means all ranks beside it. Throws Error (kBadInput) for forms that are
// recognised and not read: Megatron's zarr, DeepSpeed's, verl's, and a file before PyTorch 1.6,
// with what to do; and for a rank's folder without its file.
std::optional<TrainingPlace> FindTraining(const std::filesystem::path& input,
                                          const std::vector<formats::FreedShard>& freed = {});

}  // namespace dsv3::convert
