#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"
#include "convert/job/conversion_report.h"
#include "convert/job/run_plan.h"
#include "convert/model/scale_fmt.h"
#include "convert/model/scaled_weights.h"
#include "convert/stream/record.h"
#include "convert/stream/source_files.h"

// The small tensors that weights are scaled with, before the weights are read.
namespace dsv3::convert {

// What reading all scales found.
struct ScaleCheck {
  std::vector<Digests> digests;         // of each pair's scale tensor, in the order of the pairs
  SideDigests beside;                   // of their tensor scales and zeros
  std::vector<TensorCount> bad_scales;  // tensors with NaN, infinite, negative or zero scales
  std::vector<ScaleSignificands> significands;  // of each pair's scales, for CheckScaleFmt
};

// What a caller adds to the check.
struct ScaleLook {
  // The end of the message on a bad scale.
  std::string_view advice = "--allow-bad-scales converts it all the same";
  // Gets the bytes of each tensor that is read, piece by piece in their order; from several threads
  // at once, but from one at a time for each tensor. May be empty.
  std::function<void(std::uint32_t tensor, std::span<const std::byte> bytes)> visit = {};
};

// Reads every scale and zero point once, but for those whose digests are `known`. Throws Error
// (kBadInput) at the first bad one in the order of the pairs, naming its tensor, row and column,
// unless `allow_bad_scales`. A zero point is bad where it is NaN or infinite.
ScaleCheck CheckScales(const Catalog& catalog, const std::vector<ScaledWeight>& pairs,
                       bool allow_bad_scales, bool sha256, SourceFiles& sources,
                       ProgressSink& progress, const StopToken& stop, const SideDigests& known = {},
                       const ScaleLook& look = {});

// Reads the weight_shape beside the packed codes of these weights. Throws Error (kBadInput) where
// one contradicts the shape of its codes. Tensors in files whose names `is_there` does not hold for
// are passed over.
void CheckWeightShapes(const Catalog& catalog, const std::vector<ScaledWeight>& weights,
                       const std::function<bool(std::string_view file)>& is_there,
                       SourceFiles& sources, const StopToken& stop);

}  // namespace dsv3::convert
