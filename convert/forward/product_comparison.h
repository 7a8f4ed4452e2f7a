#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "convert/forward/model_weights.h"
#include "convert/forward/weight_comparison.h"

// The products of weight_comparison.h; an internal part of forward.h.
namespace dsv3::convert {

// The products of one call, whose panels are compared on all threads.
class ProductComparison {
 public:
  ProductComparison(WeightComparison& comparison, std::span<const Product> products);
  ProductComparison(WeightComparison& comparison, std::span<const TransposedProduct> products);
  ~ProductComparison();

  // `values`: rows [begin, end) of the product's weight as A has them.
  void Compare(std::size_t product, std::uint64_t begin, std::uint64_t end,
               const WeightPanel& values);
  // A's outputs are complete.
  void Finish();

 private:
  struct One;

  // A product that was compared, with the weights of a rank.
  ProductComparison(WeightComparison& comparison, const One& like, const OtherSide& side);

  One& Prepare(const WeightRows& weight, const float* in, std::size_t in_stride, std::size_t tokens,
               const float* out, std::size_t out_stride);
  void PrepareBias(One& one, const float* bias);
  void PrepareInput(One& one, const float* plain);
  void CompareRun(One& one, const OtherRows& run, const WeightPanel& values);
  void MultiplyRows(One& one, std::uint64_t begin, const WeightRows& rows,
                    const WeightPanel& values);
  void MultiplyTransposed(One& one, const WeightRows& rows, const WeightPanel& values);
  void SumUp(One& one);
  void Record(const One& one);
  // Compares all rows with those that ranks have whose copies differ.
  void CompareRanks(const One& one);

  WeightComparison& comparison_;
  const OtherWeights other_;
  std::vector<std::unique_ptr<One>> all_;
};

}  // namespace dsv3::convert
