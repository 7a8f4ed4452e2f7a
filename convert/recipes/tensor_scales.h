#pragma once

#include <cstddef>
#include <span>

#include "convert/catalog/progress.h"
#include "convert/job/run_options.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/open_model.h"
#include "convert/recipes/quantize.h"
#include "convert/stream/source_files.h"

namespace dsv3::convert {

// Reads the weights of those passes that one of `files` (positions in the plan) needs, each byte
// once, and finishes their tensor scales; those that are finished already are passed over. `scaled`
// are the weights that are dequantised on the way, `sources` read the tensors of `model`. NaN and
// infinities do not count: quantising reports them. Throws Error: kIo, kInterrupted.
void FindTensorScales(const OpenedModel& model, std::span<const ScaledWeight> scaled,
                      std::span<const TensorScalePass> passes, std::span<const std::size_t> files,
                      SourceFiles& sources, const RunOptions& run, ProgressSink& progress,
                      const StopToken& stop);

}  // namespace dsv3::convert
