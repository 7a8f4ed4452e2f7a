#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "formats/shape.h"

// The .npy file format of NumPy, one array a file, versions 1.0, 2.0 and 3.0: the magic
// "\x93NUMPY", a byte each of major and minor version, the header's length (2 bytes in version 1,
// else 4, little-endian), the header (the literal of a Python dict with the keys 'descr',
// 'fortran_order' and 'shape', padded with spaces), and the elements without gaps.
namespace dsv3::formats {

class InputFile;

inline constexpr std::uint64_t kMaxNpyHeaderBytes = 1 << 16;
inline constexpr std::size_t kMaxNpyDimensions = 64;  // of NumPy

enum class NpyKind { kSigned, kUnsigned, kFloat };

struct NpyHeader {
  std::string descr;  // as stored: "<i8", ">f4", "|u1"
  NpyKind kind = NpyKind::kFloat;
  unsigned element_bytes = 0;  // 1, 2, 4 or 8; a float has 2 or more
  bool big_endian = false;
  bool fortran_order = false;  // the first dimension varies fastest, as stored
  Shape shape;                 // empty for a scalar
  std::uint64_t num_elements = 0;
  std::uint64_t data_offset = 0;  // of the first element in the file
};

// Whether the file begins with the magic. Throws Error (kIo) when the disk fails.
bool IsNpy(const InputFile& file);

// Reads the header and holds it against the file's length. Refuses what NumPy would read by
// unpickling (dtype object), structured and sub-array dtypes, booleans, complex numbers, texts and
// dates, and every header that is not what numpy.save writes: unknown, missing and repeated keys,
// negative dimensions, more than kMaxNpyDimensions, other Python expressions. Reads at most
// kMaxNpyHeaderBytes. Throws Error (kBadInput; kIo when the disk fails).
NpyHeader ReadNpyHeader(const InputFile& file);

// Throws Error (kBadInput): "FILE: PROBLEM; ADVICE".
[[noreturn]] void FailNpy(const InputFile& file, std::string_view problem,
                          std::string_view advice = "write the file again with numpy.save");

}  // namespace dsv3::formats
