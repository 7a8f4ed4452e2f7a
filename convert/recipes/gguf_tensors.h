#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/model/scaled_weights.h"
#include "convert/open/open_model.h"
#include "convert/plan/gguf_file.h"
#include "formats/gguf_type.h"

namespace dsv3::convert {

// The tensors of a model as llama.cpp names and shapes them, architecture deepseek2.
struct GgufTensors {
  std::vector<GgufPlanned> tensors;  // embedding, layers, norm, head
  std::uint64_t converted = 0;       // tensors of the model that change their dtype
  // Tensors that are left out: of MTP layers, and those beside a language model, such as a vision
  // tower's.
  std::vector<std::string> left_out;
};

// `weights` are the quantised weights of the model, `dropped` what is beside them. `type` is that
// of all weights but norms, the router and what is not a matrix, which are F32; a matrix whose rows
// its blocks do not fill becomes F16. Throws Error (kBadInput) for a tensor that has no name there,
// one that is missing, and one that holds no floats.
GgufTensors PlanGgufTensors(const OpenedModel& model, const std::vector<ScaledWeight>& weights,
                            const std::vector<std::uint32_t>& dropped, formats::GgufType type);

}  // namespace dsv3::convert
