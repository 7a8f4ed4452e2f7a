#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/plan.h"
#include "convert/recipes/original_files.h"

// The way back from what dequantize made: a BF16 checkpoint and the original → the original's
// files.
namespace dsv3::convert {

struct QuantizedOriginal : OriginalFiles {
  std::vector<ScaledWeight> weights;  // positions in the catalog that it was appended to
  std::vector<std::uint32_t> beside;  // zeros and tensors that are in no value, ascending
};

// Opens the quantised checkpoint and appends it to the catalog. Throws Error as OpenOriginalFiles
// and FindQuantizedModel do.
QuantizedOriginal OpenQuantizedOriginal(const std::filesystem::path& directory,
                                        const std::filesystem::path& base,
                                        const std::filesystem::path& output, Catalog& catalog);

// The original's files, headers and index: its codes, where the source's values are still what they
// mean, what is beside these, and all other tensors from the source. Throws Error (kBadInput) that
// names a tensor that only one of the two has, or has in another shape or dtype.
Plan PlanRestore(const Catalog& catalog, const QuantizedOriginal& original);

}  // namespace dsv3::convert
