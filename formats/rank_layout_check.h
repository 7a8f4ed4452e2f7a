#pragma once

#include "formats/document_reader.h"
#include "formats/rank_layout.h"

// Whether a layout agrees with itself; an internal part of ParseRankLayout.
namespace dsv3::formats {

// `reader` has read the layout and throws the errors (kBadInput).

// That the names of files ascend, each list's on its own.
void RequireFileNames(const RankLayout& layout, const DocumentReader& reader);

// The rest. Ranks must be sorted, and LayoutRank::files and LayoutTensor::files ascend.
void RequireSound(const RankLayout& layout, const DocumentReader& reader);

}  // namespace dsv3::formats
