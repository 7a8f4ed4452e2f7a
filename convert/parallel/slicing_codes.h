#pragma once

#include <cstdint>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "convert/parallel/slicing.h"
#include "convert/parallel/slicing_misaligned.h"

// Quantised weights between ranks: what of them is cut together. Internal to convert/parallel;
// PlanSlicing is its user.
namespace dsv3::convert {

// The tensors beside codes that are not FP8 with scales for blocks.
struct CodeCompanions {
  std::unordered_set<std::uint32_t> coded;  // the weights themselves
  std::unordered_set<std::uint32_t> all;    // what is beside them: scales, zero points, shapes …
  // Zero points, and shapes that say what the whole weight is.
  std::unordered_map<std::uint32_t, const ScaledWeight*> zeros;
  std::unordered_set<std::uint32_t> shapes;
};

// `scaled` must outlive the result.
CodeCompanions FindCodeCompanions(const Catalog& catalog, const ModelConfig& config,
                                  const std::vector<ScaledWeight>& scaled);

// How many values an element of a weight's codes holds: 8 where INT4 lies in I32 words.
std::uint64_t ValuesOfElement(const Catalog& catalog, const ScaledWeight& pair);

// Where the boundaries between the parts of a weight may be. `weight` is cut.
ScaledCut CutOf(const SlicedTensor& weight, const ScaledWeight& pair);

}  // namespace dsv3::convert
