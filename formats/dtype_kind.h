#pragma once

#include "formats/dtype.h"

namespace dsv3::formats {

// Whether elements of the dtype are whole numbers; booleans count.
constexpr bool IsInteger(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBool:
    case Dtype::kU8:
    case Dtype::kI8:
    case Dtype::kI16:
    case Dtype::kU16:
    case Dtype::kI32:
    case Dtype::kU32:
    case Dtype::kI64:
    case Dtype::kU64:
      return true;
    default:
      return false;
  }
}

}  // namespace dsv3::formats
