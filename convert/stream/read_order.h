#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "convert/catalog/box.h"
#include "convert/plan/expression.h"
#include "convert/plan/plan.h"

namespace dsv3::convert {

// A box of an origin, and the files that take its bytes next in their order; `lanes` are positions
// in ReadGroup::files.
struct SharedCut {
  Box box;  // may be empty: nothing but zeros is taken
  std::vector<std::uint32_t> lanes;
};

// Zeros that a file takes behind the bytes of an origin.
struct SharedZeros {
  std::uint32_t lane = 0;
  std::uint64_t bytes = 0;
};

// Rows [begin, end).
struct RowRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

// One evaluation of an origin, for all files that cut boxes out of it.
struct SharedRead {
  const Expression* origin = nullptr;
  MatrixShape matrix;
  std::uint64_t row_bytes = 0;
  std::vector<SharedCut> cuts;
  std::vector<SharedZeros> zeros;

  // Whether some cut takes part of a row, so that the origin must be made in whole rows.
  bool CutsRows() const;
  // The rows that are in some cut, ascending, not touching each other.
  std::vector<RowRange> NeededRows() const;
  // Bytes that cuts of parts of rows take together for each byte of the origin, rounded up.
  std::uint64_t GatheredPerByte() const;
};

// Files that advance together, and the order in which their origins are made: every file finds its
// bytes in the order of its tensors.
struct ReadGroup {
  std::vector<std::size_t> files;  // positions in Plan::files
  std::vector<SharedRead> reads;
};

// Orders the origins of `files`, group by group. An origin that a file needs twice, or files of two
// groups, is made again. Origins whose bytes lie at like places of their files come together, so
// that no file runs ahead of the others. Throws Error (kInternal) when a tensor is not a slice, or
// the files of a group need two origins in contrary orders.
std::vector<ReadGroup> OrderReads(const Plan& plan, std::span<const std::size_t> files);

}  // namespace dsv3::convert
