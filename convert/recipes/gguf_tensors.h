#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/model/scaled_weights.h"
#include "convert/open/gguf_architecture.h"
#include "convert/open/open_model.h"
#include "convert/plan/gguf_file.h"
#include "convert/recipes/gguf_weights.h"

namespace dsv3::convert {

// The tensors of a model as llama.cpp names and shapes them.
struct GgufTensors {
  std::vector<GgufPlanned> tensors;  // embedding, layers, norm, head
  std::uint64_t converted = 0;       // tensors of the model that change their dtype
  // Tensors that are left out: of MTP layers, and those beside a language model, such as a vision
  // tower's.
  std::vector<std::string> left_out;
  std::vector<ScaledWeight> kept;  // weights of four bits that stay what they are
};

// `weights` are the quantised weights of the model, `dropped` what is beside them. Throws Error
// (kBadInput) for a tensor that has no name there, one that is missing, one that holds no floats,
// and one whose four bits cannot stay though `types` asks for it.
GgufTensors PlanGgufTensors(const OpenedModel& model, const GgufTarget& target,
                            const std::vector<ScaledWeight>& weights,
                            const std::vector<std::uint32_t>& dropped,
                            const GgufWeightTypes& types);

}  // namespace dsv3::convert
