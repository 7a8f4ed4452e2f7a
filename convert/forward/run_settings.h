#pragma once

#include <cstdint>

#include "convert/forward/attention_form.h"
#include "convert/forward/model_weights.h"
#include "convert/forward/modules.h"

// An internal part of forward.h.
namespace dsv3::convert {

// The arithmetic of a run, and what it may use.
struct RunSettings {
  WeightValues weights = WeightValues::kBF16;
  ActivationValues activations = ActivationValues::kFloat;
  AttentionForm attention = AttentionForm::kNaive;
  unsigned threads = 1;            // at least 1
  std::uint64_t memory_bytes = 0;  // bound for the weights in memory; 0: kDefaultMemoryBytes
};

}  // namespace dsv3::convert
