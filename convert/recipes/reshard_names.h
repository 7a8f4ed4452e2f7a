#pragma once

#include <string_view>

#include "convert/parallel/expert_placement.h"
#include "convert/parallel/slicing.h"
#include "convert/recipes/reshard_job.h"

// The words of dsv3-reshard's options, as they stand on the command line, in the manifest and in
// layout.json.
namespace dsv3::convert {

std::string_view FormatName(RankFormat format);              // "hf-rank"
std::string_view GroupingName(RankGrouping grouping);        // "component"
std::string_view OnMisalignedName(OnMisaligned misaligned);  // "replicate-module"
std::string_view PlacementName(PlacementKind kind);          // "round-robin"

}  // namespace dsv3::convert
