#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "convert/layouts/layout_table.h"
#include "convert/layouts/layout_tensors.h"
#include "convert/model/model_config.h"

namespace dsv3::convert {

// The variants that a tensor of the model may be written in.
using VariantsOf = std::function<std::vector<std::string_view>(const StackTensor& tensor)>;

// The tensors of a layout that hold the tensors of `model`, which have Hugging Face names and may
// come in any order; the sources are positions in `model`. Of several names the first is taken
// whose variant is empty or one of the tensor's. Tensors that the layout does not hold, since they
// are copies (CopyRule), are left out.
//
// Throws Error (kBadInput) for a tensor that the layout has no name for, and where `model` has only
// some of the tensors that lie in one tensor of the layout.
std::vector<ComposedTensor> WriteLayout(const LayoutTable& table, const ModelConfig& config,
                                        const std::vector<StackTensor>& model,
                                        const VariantsOf& variants_of);

// The same with these variants for all tensors.
std::vector<ComposedTensor> WriteLayout(const LayoutTable& table, const ModelConfig& config,
                                        const std::vector<StackTensor>& model,
                                        const std::vector<std::string_view>& variants = {});

}  // namespace dsv3::convert
