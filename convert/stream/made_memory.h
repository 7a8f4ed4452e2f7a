#pragma once

#include <cstdint>
#include <span>

#include "convert/plan/derived_tensors.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// The most memory that SourceFiles takes beside the buffer of a reader to make derived tensors:
// what their origins read, and whole pieces around the ends of the range. `expression` is read in
// ranges that name up to `input_bytes` of source bytes; of several ranges one is made at a time.
std::uint64_t MadeMemory(const Expression& expression, std::uint64_t input_bytes,
                         std::span<const DerivedTensors> derived);

}  // namespace dsv3::convert
