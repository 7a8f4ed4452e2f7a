#pragma once

#include <string>

#include "convert/model/model_config.h"
#include "convert/parallel/topology.h"

namespace dsv3::convert {

// Options near those that do not fit and that do, for an error: "the nearest sizes that fit: --tp 4
// --ep 32, --tp 4 --ep 16 or --tp 2 --ep 32". `sizes` is CompleteSizes of the options. Near is by
// ratio: a size that is doubled is as far as one that is halved, and the ratios of several sizes
// are multiplied. Options that were given are named, even unchanged, and so are others that must
// differ from their default. The same for equal arguments; takes milliseconds whatever was asked.
std::string NearestSizesText(const ParallelOptions& options, const Topology& sizes,
                             const ModelConfig& config);

}  // namespace dsv3::convert
