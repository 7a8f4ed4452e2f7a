#pragma once

#include <cstdint>
#include <vector>

#include "convert/model/model_config.h"
#include "convert/plan/catalog.h"
#include "formats/finding.h"
#include "quant/dequantize.h"

namespace dsv3::convert {

// An FP8 weight and the tensor that holds its scales; positions in the catalog. The weight is
// `matrices` row-major matrices of `rows` × `cols`, one after the other (1 but for fused experts),
// and so are the scales: each matrix has ceil(rows / block.rows) × ceil(cols / block.cols) of them.
// One scale for a row is the block {1, cols}, one for a matrix {rows, cols}.
struct ScaledWeight {
  std::uint32_t weight = 0;
  std::uint32_t scale = 0;
  std::uint64_t matrices = 1;
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  quant::BlockShape block;
};

struct ScaledWeights {
  std::vector<ScaledWeight> pairs;  // ordered by the weight's position
  // All that is wrong with scales, names of kinds in docs/verify.md: errors for what makes a weight
  // meaningless, warnings for the rest.
  formats::Findings findings;
};

// Pairs every FP8 weight (F8_E4M3, F8_E5M2) with its scales in whichever shard they are, in every
// form that the family uses: X_scale_inv, X's ".weight_scale" (compressed-tensors), X's ".scale"
// (V4), F32, BF16 or F8_E8M0; block sizes from the config, never from shapes alone. Reads no
// values.
ScaledWeights FindScaledWeights(const Catalog& catalog, const ModelConfig& config);

}  // namespace dsv3::convert
