#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "convert/layouts/layout_table.h"
#include "convert/layouts/layout_tensors.h"
#include "convert/model/model_config.h"

// The names of MindFormers' inference network for weights that msmodelslim quantised to INT8:
// statically (deq_scale, quant_bias, input_scale, input_offset) or with scales of activations that
// are found at run time (weight_scale, weight_offset).
namespace dsv3::convert {

// Of the rules for the weights themselves. What lies beside them has one name alone.
inline constexpr std::string_view kW8A8Variant = "w8a8";

// Those rules before `rules`, which are for the tensors of a layer.
std::vector<NameRule> WithW8A8Rules(const std::vector<NameRule>& rules);

// The network holds "….input_layernorm.bias" twice. The name under which the second one is a tensor
// of the model while a layout is read or written, and the way back: empty for any other name.
std::string SecondW8A8Bias(std::string_view bias);
std::string FirstW8A8Bias(std::string_view name);

// Whether a tensor beside a quantised weight is such a column.
bool IsW8A8Column(std::string_view name);

// ReadLayout for the tensors that the config predicts and those beside them that the layout has a
// name for and the checkpoint has. Columns get their two dimensions back.
LayoutReading ReadW8A8Layout(const LayoutTable& table, const ModelConfig& config,
                             const std::vector<StackTensor>& stack);

}  // namespace dsv3::convert
