#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/derived_tensors.h"
#include "convert/plan/expression.h"

// AWQ keeps a matrix [N, K] by columns: its codes as I32 [K, N / 8], its scales as [K / group, N],
// its zero points as I32 [K / group, N / 8]. A word has the codes of eight neighbouring rows, in an
// order of its own. Here the same codes, scales and zero points are put by rows, as ScaledWeight
// describes them: I32 [N, K / 8], [N, K / group] and I32 [N / 8, K / group], the first of eight in
// the lowest bits. A tensor keeps its size, and no value changes.
namespace dsv3::convert {

// Whether a weight is kept in this way, by the name of its codes.
bool IsByColumns(const Catalog& catalog, const ScaledWeight& weight);

// A word of AWQ's, its eight codes in the order of their rows, the first in the lowest bits.
std::uint32_t InRowOrder(std::uint32_t word);

// One of the tensors of a weight that is kept by columns, by rows; a position in the catalog. May
// be cut between rows (codes: between eight of them) alone.
ExpressionPtr ByRows(const Catalog& catalog, const ScaledWeight& weight, std::uint32_t tensor);

// What is read in place of a catalog's tensors, so that those which are kept by columns have their
// values by rows. The catalog must outlive it.
class RowTensors {
 public:
  // `derived`: how tensors of the catalog are made that are in no file.
  RowTensors(const Catalog& catalog, std::span<const ScaledWeight> weights,
             std::vector<DerivedTensors> derived);
  RowTensors(const RowTensors&) = delete;
  RowTensors& operator=(const RowTensors&) = delete;

  // Whether there are any by columns.
  bool any() const { return !origins_.empty(); }
  // For SourceFiles. Refers to this object.
  const std::vector<DerivedTensors>& derived() const { return derived_; }

 private:
  std::vector<DerivedTensors> derived_;
  std::vector<std::vector<ExpressionPtr>> origins_;
};

}  // namespace dsv3::convert
