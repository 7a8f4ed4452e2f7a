#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "formats/npy.h"

namespace dsv3::formats {

inline constexpr std::uint64_t kMaxNpyIntegers = std::uint64_t{1} << 26;  // 512 MiB in memory

// All elements of an array of integers, in C order also where the file has Fortran order. `header`
// is that of `file`. Throws Error: kBadInput for an array of floats, for more than kMaxNpyIntegers
// elements, and for a value that 64 bits with a sign do not hold; kIo when the disk fails.
std::vector<std::int64_t> ReadNpyIntegers(const InputFile& file, const NpyHeader& header);

// Fills `out` with the elements [begin, begin + out.size()) in C order of an array of floats. F2
// and F4 are exact, NaN codes included; F8 is rounded to nearest, ties to even, and becomes
// infinite beyond float's range. Several threads may read one file. Throws Error: kBadInput for an
// array of integers or in Fortran order, kInternal for elements that the array does not have, kIo
// when the disk fails.
void ReadNpyFloats(const InputFile& file, const NpyHeader& header, std::uint64_t begin,
                   std::span<float> out);

}  // namespace dsv3::formats
