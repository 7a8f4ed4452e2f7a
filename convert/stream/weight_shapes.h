#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"
#include "convert/model/scaled_weights.h"
#include "convert/stream/source_files.h"
#include "formats/finding.h"

namespace dsv3::convert {

// Reads the weight_shape beside the packed codes of these weights, and returns an error of kind
// "wrong-weight-shape" for each that contradicts the shape of its codes. Tensors in files whose
// names `is_there` does not hold for are passed over.
formats::Findings FindWrongWeightShapes(const Catalog& catalog,
                                        const std::vector<ScaledWeight>& weights,
                                        const std::function<bool(std::string_view file)>& is_there,
                                        SourceFiles& sources, const StopToken& stop);

}  // namespace dsv3::convert
