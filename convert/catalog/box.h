#pragma once

#include <algorithm>
#include <cstdint>

#include "formats/shape.h"

namespace dsv3::convert {

// The shape of a tensor seen as a matrix: the last dimension gives the columns, all dimensions
// before it give the rows. A tensor of rank 1 has one column, so that it is cut as the rows of the
// weight beside it are cut; a scalar has one row and one column.
struct MatrixShape {
  std::uint64_t rows = 1;
  std::uint64_t cols = 1;
  friend bool operator==(const MatrixShape&, const MatrixShape&) = default;
};

inline MatrixShape MatrixOf(const formats::Shape& shape) {
  MatrixShape matrix;
  if (shape.size() >= 2) matrix.cols = shape.back();
  const std::size_t row_dims = shape.size() >= 2 ? shape.size() - 1 : shape.size();
  for (std::size_t i = 0; i < row_dims; ++i) matrix.rows *= shape[i];
  return matrix;
}

// Rows [row_begin, row_end) of columns [col_begin, col_end).
struct Box {
  std::uint64_t row_begin = 0;
  std::uint64_t row_end = 0;
  std::uint64_t col_begin = 0;
  std::uint64_t col_end = 0;

  std::uint64_t rows() const { return row_end - row_begin; }
  std::uint64_t cols() const { return col_end - col_begin; }
  bool empty() const { return row_begin >= row_end || col_begin >= col_end; }
  std::uint64_t elements() const { return empty() ? 0 : rows() * cols(); }
  friend bool operator==(const Box&, const Box&) = default;
};

inline Box Whole(const MatrixShape& matrix) { return {0, matrix.rows, 0, matrix.cols}; }

// The box that both boxes cover; it may be empty.
inline Box Intersect(const Box& a, const Box& b) {
  return {std::max(a.row_begin, b.row_begin), std::min(a.row_end, b.row_end),
          std::max(a.col_begin, b.col_begin), std::min(a.col_end, b.col_end)};
}

}  // namespace dsv3::convert
