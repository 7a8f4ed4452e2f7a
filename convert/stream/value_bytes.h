#pragma once

#include <cstddef>
#include <vector>

#include "convert/plan/expression.h"
#include "convert/stream/source_files.h"

namespace dsv3::convert {

// The bytes of a value in this range, wherever the value may be cut. `sources` are those of its
// catalog. Throws Error as reading and evaluating do.
std::vector<std::byte> ReadValue(const Expression& value, ByteRange range, SourceFiles& sources);

}  // namespace dsv3::convert
