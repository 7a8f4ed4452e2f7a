#include "convert/open/other_stacks.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <system_error>

#include "formats/checkpoint_files.h"
#include "formats/io/existence.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kDeepSpeed =
    "these are the files of a DeepSpeed checkpoint, which is not read; run the zero_to_fp32.py "
    "beside it, and give what it writes";
constexpr std::string_view kDeepSpeedUniversal =
    "this is a universal checkpoint of DeepSpeed, which is not read; run the zero_to_fp32.py "
    "beside the checkpoint that ds_to_universal.py made it from, and give what it writes";
constexpr std::string_view kVerl =
    "these are verl's files of FSDP ranks, which hold pickled objects and are not read; run verl's "
    "model_merger first, and give what it writes";
constexpr std::string_view kNemo =
    "this is an archive of NeMo, which is not read; unpack it (tar -xf FILE -C DIR), and give the "
    "directory of weights in it (model_weights), with --config FILE";
constexpr std::string_view kMegatronZarr =
    "the checkpoint is in Megatron's format zarr, which is not read; save it with Megatron as "
    "torch_dist (--ckpt-format torch_dist)";
constexpr std::string_view kZarr =
    "it holds arrays in the format zarr, as Megatron (--ckpt-format zarr) and Orbax write them, "
    "which is not read; save it with Megatron as torch_dist, or from JAX as safetensors with "
    "Hugging Face's names";
constexpr std::string_view kOrbax =
    "this is a checkpoint of Orbax (JAX, MaxText), which is not read; save it as safetensors with "
    "Hugging Face's names, with the tools of its trainer";
constexpr std::string_view kPaddle =
    "these are weights of PaddlePaddle, which are not read; save them as safetensors with Hugging "
    "Face's names, with the tools of PaddleNLP";

struct Row {
  bool (*is_of)(std::string_view name);
  std::string_view description;
};

constexpr std::array<Row, 7> kFiles = {{
    {[](std::string_view name) { return name.find("zero_pp_rank_") != std::string_view::npos; },
     kDeepSpeed},
    {[](std::string_view name) { return name.ends_with("model_states.pt"); }, kDeepSpeed},
    {[](std::string_view name) { return name == "zero_to_fp32.py"; }, kDeepSpeed},
    {[](std::string_view name) {
       return name.ends_with(".pt") && name.find("_world_size_") != std::string_view::npos &&
              name.find("_rank_") != std::string_view::npos;
     },
     kVerl},
    {[](std::string_view name) { return name.ends_with(".nemo"); }, kNemo},
    {[](std::string_view name) { return name.ends_with(".pdparams"); }, kPaddle},
    {[](std::string_view name) { return name == "manifest.ocdbt"; }, kOrbax},
}};

constexpr char kZarrArray[] = ".zarray";

bool IsDirectory(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

// Whether one of the first directories has a file of this name.
bool HasDirectoryWith(const fs::path& directory, const std::vector<std::string>& names,
                      std::string_view file) {
  constexpr std::size_t kMostDirectories = 16;
  std::size_t seen = 0;
  for (const std::string& name : names) {
    if (!IsDirectory(directory / name)) continue;
    if (formats::Exists(directory / name / file)) return true;
    if (++seen == kMostDirectories) break;
  }
  return false;
}

bool SaysZarr(const fs::path& directory) {
  constexpr std::size_t kMostBytes = 1 << 16;
  return formats::ReadSmallFile(directory / "metadata.json", kMostBytes).find("zarr") !=
         std::string::npos;
}

}  // namespace

std::string DescribeOtherFile(std::string_view name) {
  for (const Row& row : kFiles) {
    if (row.is_of(name)) return std::string(row.description);
  }
  return "";
}

std::string DescribeOtherDirectory(const fs::path& directory,
                                   const std::vector<std::string>& names) {
  const auto has = [&](std::string_view name) {
    return std::binary_search(names.begin(), names.end(), name);
  };
  const auto has_start = [&](std::string_view start) {
    const auto found = std::lower_bound(names.begin(), names.end(), start);
    return found != names.end() && found->starts_with(start);
  };
  // Of one parameter, of all of them, or the directory around them.
  if (has("latest_universal") || (has("fp32.pt") && has("exp_avg.pt")) ||
      HasDirectoryWith(directory, names, "fp32.pt") ||
      (has("zero") && has_start("mp_rank_00_model_states"))) {
    return std::string(kDeepSpeedUniversal);
  }
  for (const std::string& name : names) {
    if (std::string description = DescribeOtherFile(name); !description.empty()) {
      return description;
    }
  }
  if (has("latest") && has_start("global_step")) return std::string(kDeepSpeed);
  if (has("metadata.json") && SaysZarr(directory)) return std::string(kMegatronZarr);
  if (has("common.pt") && HasDirectoryWith(directory, names, kZarrArray)) {
    return std::string(kMegatronZarr);
  }
  if (has(kZarrArray) || HasDirectoryWith(directory, names, kZarrArray)) return std::string(kZarr);
  if (has("_CHECKPOINT_METADATA") || has("_METADATA")) return std::string(kOrbax);
  return "";
}

}  // namespace dsv3::convert
