#pragma once

#include <string_view>
#include <vector>

#include "convert/layouts/layout_table.h"
#include "convert/layouts/layout_tensors.h"
#include "convert/model/model_config.h"

// Layouts of weights with DeepSeek's scales (X_scale_inv).
namespace dsv3::convert {

// ReadLayout for the tensors that the config predicts and those of their scales that the layout has
// a name for and the checkpoint has. Where one tensor of the layout holds the scales of two weights
// and a block would hold rows of both, they cannot be parted: Error (kBadInput).
LayoutReading ReadScaledLayout(const LayoutTable& table, const ModelConfig& config,
                               const std::vector<StackTensor>& stack);

// WriteLayout for a model that may have scales. Error (kBadInput) as above.
std::vector<ComposedTensor> WriteScaledLayout(const LayoutTable& table, const ModelConfig& config,
                                              const std::vector<StackTensor>& model,
                                              const std::vector<std::string_view>& variants = {});

}  // namespace dsv3::convert
