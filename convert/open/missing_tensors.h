#pragma once

#include <optional>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "formats/finding.h"

namespace dsv3::convert {

// One "missing-tensor" for all tensors that the config predicts and that no file holds, the first
// of them its tensor: an error, whatever an index says. Where all of them are weights that are
// stored in a form that is not known, a warning.
std::optional<formats::Finding> FindMissingTensors(const ModelConfig& config,
                                                   const Catalog& catalog);

}  // namespace dsv3::convert
