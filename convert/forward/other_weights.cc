#include "convert/forward/other_weights.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "convert/forward/ranks.h"

namespace dsv3::convert {

Box BoxIn(const WeightRows& rows, const Box& box) {
  // A vector is one row here, and one column to the ranks.
  const bool is_vector = rows.rows == 1 && rows.first_row == 0 && box.col_end == 1;
  const Box of_tensor = is_vector ? Box{0, 1, box.row_begin, box.row_end} : box;
  Box part = Intersect(of_tensor, {rows.first_row, rows.first_row + rows.rows, 0, rows.cols});
  if (part.empty()) return {};
  part.row_begin -= rows.first_row;
  part.row_end -= rows.first_row;
  return part;
}

void KeepBoxesOf(const Ranks& ranks, std::uint32_t rank, const WeightRows& rows,
                 const WeightPanel& mine, float* values) {
  std::vector<bool> own(static_cast<std::size_t>(rows.rows * rows.cols), false);
  for (const Box& box : ranks.BoxesOf(rank, rows.tensor)) {
    const Box part = BoxIn(rows, box);
    for (std::uint64_t row = part.row_begin; row < part.row_end; ++row) {
      const auto first = own.begin() + static_cast<std::ptrdiff_t>(row * rows.cols);
      std::fill(first + static_cast<std::ptrdiff_t>(part.col_begin),
                first + static_cast<std::ptrdiff_t>(part.col_end), true);
    }
  }
  for (std::size_t i = 0; i < own.size(); ++i) {
    if (!own[i]) values[i] = mine.At(i);
  }
}

void OtherWeights::KeepOwn(const WeightRows& rows, const WeightPanel& mine, float* values) const {
  if (!is_rank()) return;
  KeepBoxesOf(*weights.ranks(), static_cast<std::uint32_t>(side.rank), rows, mine, values);
}

}  // namespace dsv3::convert
