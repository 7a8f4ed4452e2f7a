#include "convert/forward/difference.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dsv3::convert {

const char* RelationName(TensorRelation relation) {
  switch (relation) {
    case TensorRelation::kScaled:
      return "scaled";
    case TensorRelation::kRowsPermuted:
      return "rows-permuted";
    case TensorRelation::kZeroed:
      return "zeroed";
    case TensorRelation::kValues:
      return "values";
    case TensorRelation::kShape:
      return "shape";
    case TensorRelation::kConfig:
      return "config";
  }
  return "values";
}

double ErrorSums::Nmse() const {
  if (difference == 0) return 0;
  const double nmse = difference / a;
  // Also where an element of b is not finite.
  return std::isfinite(nmse) ? nmse : std::numeric_limits<double>::infinity();
}

double ErrorSums::Cosine() const {
  if (difference == 0) return 1;
  if (a == 0 || b == 0) return a == b ? 1 : 0;
  if (!std::isfinite(product)) return 0;
  // Rounding may give a little more than 1.
  return std::clamp(product / std::sqrt(a) / std::sqrt(b), -1.0, 1.0);
}

}  // namespace dsv3::convert
