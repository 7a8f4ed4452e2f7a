#pragma once

#include <string>
#include <vector>

#include "convert/job/conversion_report.h"
#include "formats/json/json_writer.h"

// The quality of quantised weights, for a person and for programs.
namespace dsv3::cli {

// Lines of a report, and a table of the worst tensors; `like_original` adds the comparison with
// --scales-from. Empty for no tensors.
std::string QualityText(const std::vector<convert::TensorQuality>& tensors, bool like_original);

// Member "quality": the total and every tensor, or null for no tensors.
void QualityMember(formats::JsonWriter& json, const std::vector<convert::TensorQuality>& tensors,
                   bool like_original);

// The tensors with NaN or infinite values.
std::vector<convert::TensorCount> NonfiniteCounts(
    const std::vector<convert::TensorQuality>& tensors);

}  // namespace dsv3::cli
