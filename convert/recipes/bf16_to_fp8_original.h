#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/job/run_plan.h"
#include "convert/model/model_config.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/assembled_model.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/conversion.h"
#include "formats/manifest.h"
#include "formats/safetensors.h"

// --scales-from: the FP8 checkpoint that a BF16 checkpoint was made of, to go back to.
namespace dsv3::convert {

// The option's name, which marks the original's files in a catalog and in the manifest.
inline constexpr char kScalesFrom[] = "scales-from";

// A shard of the original, whose layout the output takes.
struct OriginalShard {
  std::string name;
  std::string header_bytes;  // as they stand in the file
  formats::SafetensorsHeader header;
};

struct Original {
  std::filesystem::path directory;  // as it was given
  std::vector<OriginalShard> shards;
  bool needs_index = false;
  std::string index;  // its text as it is; empty where there is none
  std::string config_text;
  ModelConfig config;
  std::vector<ScaledWeight> pairs;  // positions in the catalog that it was appended to
  // How its tensors are made, where they are in no file as they are; else nullptr.
  std::shared_ptr<const AssembledModel> assembled;
  Fp8Form form;
  formats::Findings warnings;  // of opening it; messages begin with "--scales-from DIR: "
};

// The same for a finding about the original that was made later.
formats::Finding OfOriginal(const Original& original, formats::Finding finding);

// What llm-compressor took for the own format of a weight that is BF16 by now: F16 where its scales
// are; nothing where it is BF16.
std::optional<quant::FloatFormat> OwnFormatOf(const ScaledWeight& pair);

// Opens the model of options.scales_from and appends it to the catalog. Throws Error: as OpenModel
// does for what is wrong with it (messages begin with "--scales-from DIR: "); kBadInput where it is
// not an FP8 model with shards of its own, or of a kind that is not written here; kUsage for
// options that contradict it.
Original OpenOriginal(const Bf16ToFp8Options& options, const std::filesystem::path& output,
                      Catalog& catalog);

// The original's quantised tensors. Throws Error: kBadInput that names a tensor that only one of
// the two has, or has in another shape or dtype, or for a source that is FP8 already; kUsage for
// globs that ask for another set.
TensorSelection SelectLikeOriginal(const Catalog& catalog, const Original& original,
                                   const Bf16ToFp8Options& options);

// Names, places and header bytes of the original's files, index included; blocks that were not
// edited take its codes and scales.
Bf16ToFp8Plan PlanLikeOriginal(const Catalog& catalog, const TensorSelection& selection,
                               const Original& original, const Bf16ToFp8Options& options);

// Text of config.json: the original's where the source's is what fp8-to-bf16 makes of it, else the
// source's with the original's quantization_config.
std::string ConfigLikeOriginal(const std::string& config_text, const Original& original);

// Holds the original's scales against those that the source's manifest says it was made with.
// `digests` are those of the pairs. Throws Error (kBadInput) that names the first that differs.
void RequireOriginalOf(const formats::Manifest& manifest, const Catalog& catalog,
                       const Original& original, const SideDigests& digests);

}  // namespace dsv3::convert
