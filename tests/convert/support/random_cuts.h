#pragma once

#include <random>
#include <string>

#include "convert/plan/expression.h"
#include "tests/convert/support/memory_source.h"

namespace dsv3::testing {

// Expects of an expression that its value is `expected` however it is cut, and that it keeps what
// it says of its cuts and reads: places between neighbouring cuts belong to the one before, no two
// are farther apart than LongestPiece, and no piece streams more than
// input_bytes_per_output_byte tells; and what AsStored says is so. All cuts at once and a number of
// random selections are tried.
void ExpectInAnyPieces(const MemorySource& source, const convert::Expression& expression,
                       const std::string& expected, std::mt19937& random);

}  // namespace dsv3::testing
