#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/expression.h"
#include "tests/convert/support/tiny_checkpoint.h"

namespace dsv3::testing {

// Evaluates expressions over a checkpoint that is in memory alone: what a file must hold, found
// without reading or writing one.
class MemorySource {
 public:
  // A catalog with the checkpoint's tensors in their order; offsets mean nothing.
  explicit MemorySource(const TinyCheckpoint& checkpoint);
  // The tensors of a catalog by their names in the checkpoint.
  MemorySource(const TinyCheckpoint& checkpoint, const convert::Catalog& catalog);

  const convert::Catalog& catalog() const { return catalog_; }

  // Bytes [begin, end) of the expression's value.
  std::string Evaluate(const convert::Expression& expression, std::uint64_t begin,
                       std::uint64_t end, convert::EvaluationCounts& counts) const;
  // All of it.
  std::string Evaluate(const convert::Expression& expression,
                       convert::EvaluationCounts& counts) const {
    return Evaluate(expression, 0, expression.num_bytes(), counts);
  }

 private:
  convert::Catalog catalog_;
  std::vector<std::string> bytes_;  // by position in the catalog
};

// A 2-D F8_E4M3 weight and its block scales, found without a config.
convert::ScaledWeight MatrixPair(const convert::Catalog& catalog, std::uint32_t weight,
                                 std::uint32_t scale, quant::BlockShape block);

}  // namespace dsv3::testing
