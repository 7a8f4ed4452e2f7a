#pragma once

#include <map>

#include "convert/catalog/catalog.h"
#include "formats/dtype.h"

namespace dsv3::convert {

// How many bytes each byte of the tensors of a dtype takes when it is packed, from a few samples of
// each dtype. Files that are gone are passed over; a dtype without a sample is not in the result.
// Reads some megabytes at most. Throws Error as reading does.
std::map<formats::Dtype, double> SamplePackedSizes(const Catalog& catalog);

}  // namespace dsv3::convert
