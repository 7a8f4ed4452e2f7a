#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/job/run_plan.h"
#include "convert/model/scaled_weights.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/original_files.h"
#include "formats/manifest.h"

// --scales-from: the FP8 checkpoint that a BF16 checkpoint was made of, to go back to.
namespace dsv3::convert {

struct Original : OriginalFiles {
  std::vector<ScaledWeight> pairs;  // positions in the catalog that it was appended to
  Fp8Form form;
};

// What llm-compressor took for the own format of a weight that is BF16 by now: F16 where its scales
// are; nothing where it is BF16.
std::optional<quant::FloatFormat> OwnFormatOf(const ScaledWeight& pair);

// Opens the model of options.scales_from, with `base` as OpenOptions::base, and appends it to the
// catalog. Throws Error: as OpenModel does for what is wrong with it (messages begin with
// "--scales-from DIR: "); kBadInput where it is not an FP8 model with shards of its own, or of a
// kind that is not written here; kUsage for options that contradict it.
Original OpenOriginal(const Bf16ToFp8Options& options, const std::filesystem::path& base,
                      const std::filesystem::path& output, Catalog& catalog);

// The original's quantised tensors. Throws Error: kBadInput that names a tensor that only one of
// the two has, or has in another shape or dtype, or for a source that is FP8 already; kUsage for
// globs that ask for another set.
TensorSelection SelectLikeOriginal(const Catalog& catalog, const Original& original,
                                   const Bf16ToFp8Options& options);

// Names, places and header bytes of the original's files, index included; blocks that were not
// edited take its codes and scales.
Bf16ToFp8Plan PlanLikeOriginal(const Catalog& catalog, const TensorSelection& selection,
                               const Original& original, const Bf16ToFp8Options& options);

// Holds the original's scales against those that the source's manifest says it was made with.
// `digests` are those of the pairs. Throws Error (kBadInput) that names the first that differs.
void RequireOriginalOf(const formats::Manifest& manifest, const Catalog& catalog,
                       const Original& original, const SideDigests& digests);

}  // namespace dsv3::convert
