#pragma once

#include <vector>

#include "convert/layouts/layout_table.h"
#include "convert/layouts/layout_tensors.h"
#include "convert/model/model_config.h"

namespace dsv3::convert {

// The tensors that the config predicts, in the model's order. Throws Error (kBadInput) for an
// unknown model_type.
std::vector<StackTensor> ModelTensorsOf(const ModelConfig& config);

// Reads the tensors of a layout as those of `model`, which are in the model's order: tensors that
// the config predicts, and scales of some. The MTP layers may be missing, but not a part of them.
//
// Throws Error (kBadInput) that names the tensor and says what to do: a name twice; a tensor of the
// model that no tensor of the layout holds; a shape other than the config's; a tensor under the
// model's prefixes that holds nothing of `model`, so that no weight is lost in silence.
LayoutReading ReadLayout(const LayoutTable& table, const ModelConfig& config,
                         const std::vector<StackTensor>& model,
                         const std::vector<StackTensor>& stack);

// The same for ModelTensorsOf(config).
LayoutReading ReadLayout(const LayoutTable& table, const ModelConfig& config,
                         const std::vector<StackTensor>& stack);

}  // namespace dsv3::convert
