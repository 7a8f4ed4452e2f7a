#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "convert/model/scaled_weights.h"

// A weight in a form of the table, and whether its tensors agree. Internal to convert/model;
// FindScaledWeights uses it.
namespace dsv3::convert {

struct CodedWeight {
  // The weight where its values can be made; else `unread` says why not: what ends "which cannot be
  // dequantised: …".
  std::optional<ScaledWeight> weight;
  std::string unread;
  // What is wrong with its tensors: kinds of ScaledWeights::findings.
  struct Fault {
    std::uint32_t tensor = 0;
    const char* kind = "";
    std::string message;
  };
  std::vector<Fault> faults;
};

// Precondition: RecogniseForm finds a form for the tensor.
CodedWeight ReadCodedWeight(const Catalog& catalog, const ModelConfig& config,
                            std::uint32_t position);

}  // namespace dsv3::convert
