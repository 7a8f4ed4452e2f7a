#pragma once

#include <map>
#include <utility>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/plan/expression.h"
#include "formats/dtype.h"

namespace dsv3::convert {

// How many bytes each byte of the tensors of a dtype takes when it is packed, without or with a
// base.
using PackedSizes = std::map<std::pair<formats::Dtype, bool>, double>;

// Finds that from a few samples of each. `bases` are what tensors are packed against, by position;
// nullptr for none. Files that are gone are passed over; what has no sample is not in the result.
// Reads some megabytes at most. Throws Error as reading does.
PackedSizes SamplePackedSizes(const Catalog& catalog, const std::vector<ExpressionPtr>& bases);

}  // namespace dsv3::convert
