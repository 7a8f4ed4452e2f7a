#pragma once

#include <cstdint>
#include <optional>

#include "convert/forward/difference.h"
#include "convert/forward/weight_comparison.h"

// What a tensor is to the same tensor of another model; an internal part of forward.h.
namespace dsv3::convert {

struct FoundRelation {
  TensorRelation relation = TensorRelation::kValues;
  std::optional<double> factor;
};

// Sets `of_b` to the other's rows [begin, end) of the record's, where a rank is meant with A's
// values, which are `of_a`, in all that the rank does not hold. `other` is that of the record's
// side; `of_fp8`: the values of FP8 weights, the run's without. Thread-safe.
void ReadOther(const WeightComparison& comparison, const OtherWeights& other,
               const WeightComparison::Record& record, std::uint64_t begin, std::uint64_t end,
               const float* of_a, float* of_b, std::optional<WeightValues> of_fp8 = {});

// Reads the module's rows of both models, whole and in panels. kRowsPermuted: the same rows, of a
// vector the same elements, in another order. kScaled: each element, or each that differs, is the
// factor times A's, rounded once to the tensor's dtype, or but for two roundings to BF16. Throws
// Error as ModelWeights does.
FoundRelation FindRelation(const WeightComparison& comparison,
                           const WeightComparison::Record& record);

}  // namespace dsv3::convert
