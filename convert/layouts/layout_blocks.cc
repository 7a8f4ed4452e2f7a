#include "convert/layouts/layout_blocks.h"

namespace dsv3::convert {
namespace {

// The rows that a tensor takes of a tensor with these first axes. Behind such an axis a vector is a
// row.
std::uint64_t RowsIn(const formats::Shape& axes, const formats::Shape& shape) {
  return shape.size() < 2 && !axes.empty() ? 1 : MatrixOf(shape).rows;
}

}  // namespace

void LayoutBlocks::Add(const LayoutPlace& place, const formats::Shape& shape) {
  if (first_.empty()) {
    axes_ = place.axes;
    first_ = shape;
    first_block_ = place.block;
  }
  const std::uint64_t rows = RowsIn(axes_, shape);
  if (place.block == first_block_) block_rows_ += rows;
  all_rows_ += rows;
  if (place.rule->rows == RuleRows::kUpper) ++unpaired_;
  if (place.rule->rows == RuleRows::kLower) --unpaired_;
  is_padded_ = place.rule->rows == RuleRows::kPadded;
}

formats::Shape LayoutBlocks::shape() const {
  formats::Shape shape = axes_;
  shape.insert(shape.end(), first_.begin(), first_.end());
  if (first_.size() >= 2) shape[axes_.size()] = block_rows_;
  return shape;
}

bool LayoutBlocks::IsFull() const {
  std::uint64_t blocks = 1;
  for (const std::uint64_t size : axes_) blocks *= size;
  return unpaired_ == 0 && all_rows_ == blocks * block_rows_;
}

Box LayoutBlocks::BoxOf(const LayoutPlace& place, const formats::Shape& shape) const {
  const std::uint64_t rows = RowsIn(axes_, shape);
  std::uint64_t begin = place.block * block_rows_;
  if (place.rule->rows == RuleRows::kLower) begin += block_rows_ - rows;
  return {begin, begin + rows, 0, MatrixOf(this->shape()).cols};
}

}  // namespace dsv3::convert
