#pragma once

#include <cstdint>
#include <vector>

#include "convert/model/scaled_weights.h"
#include "convert/open/open_model.h"
#include "convert/recipes/gguf_tensors.h"
#include "convert/recipes/gguf_weights.h"

namespace dsv3::convert {

// PlanGgufTensors for DeepSeek-V4, architecture deepseek4. `types` has the types of what its
// releases quantise; all else stays as it is stored, but norms and vectors, which are F32.
GgufTensors PlanV4GgufTensors(const OpenedModel& model, const std::vector<ScaledWeight>& weights,
                              const std::vector<std::uint32_t>& dropped,
                              const GgufWeightTypes& types);

}  // namespace dsv3::convert
