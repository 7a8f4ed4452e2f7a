#include "convert/layouts/layout_blocks.h"

#include <utility>

namespace dsv3::convert {
namespace {

// The matrix of what the layout's block holds of the tensor.
MatrixShape PieceMatrix(const LayoutPlace& place, const ModelConfig& config,
                        const formats::Shape& shape) {
  const MatrixShape whole = ModelMatrix(place, shape);
  MatrixShape piece{0, whole.cols};
  for (const RowRun& run : RowsOf(place.rule->piece, config, whole.rows)) {
    piece.rows += run.end - run.begin;
  }
  if (place.rule->transposed) std::swap(piece.rows, piece.cols);
  return piece;
}

}  // namespace

MatrixShape ModelMatrix(const LayoutPlace& place, const formats::Shape& shape) {
  if (shape.size() == 1 && !place.axes.empty()) return {1, shape[0]};
  return MatrixOf(shape);
}

void LayoutBlocks::Add(const LayoutPlace& place, const ModelConfig& config,
                       const formats::Shape& shape) {
  const NameRule& rule = *place.rule;
  if (!has_tensors()) {
    form_ = rule.axes;
    axes_ = place.axes;
    rank_ = shape.size();
    first_block_ = place.block;
  }
  const MatrixShape piece = PieceMatrix(place, config, shape);
  elements_ += piece.rows * piece.cols;
  if (place.block == first_block_) {
    // Transposed tensors lie side by side, others one below the other.
    block_.rows = rule.transposed ? piece.rows : block_.rows + piece.rows;
    block_.cols = rule.transposed ? block_.cols + piece.cols : piece.cols;
  }
  if (rule.rows == RuleRows::kUpper || rule.rows == RuleRows::kEven) ++unpaired_;
  if (rule.rows == RuleRows::kLower || rule.rows == RuleRows::kOdd) --unpaired_;
  is_padded_ = rule.rows == RuleRows::kPadded;
}

std::uint64_t LayoutBlocks::blocks() const {
  std::uint64_t blocks = 1;
  for (const std::uint64_t size : axes_) blocks *= size;
  return blocks;
}

formats::Shape LayoutBlocks::shape() const {
  if (form_ == RuleAxes::kInRows) return {blocks() * block_.rows, block_.cols};
  if (form_ == RuleAxes::kFolded) return {block_.rows, blocks() * block_.cols};
  formats::Shape shape = axes_;
  if (rank_ >= 2 || axes_.empty()) shape.push_back(block_.rows);
  if (rank_ >= 2 || !axes_.empty()) shape.push_back(block_.cols);
  return shape;
}

MatrixShape LayoutBlocks::matrix() const { return {blocks() * block_.rows, block_.cols}; }

bool LayoutBlocks::IsFull() const {
  return unpaired_ == 0 && elements_ == blocks() * block_.rows * block_.cols;
}

std::vector<LayoutLink> LayoutBlocks::Links(const LayoutPlace& place, const ModelConfig& config,
                                            const formats::Shape& shape) const {
  const NameRule& rule = *place.rule;
  const MatrixShape whole = ModelMatrix(place, shape);
  const MatrixShape piece = PieceMatrix(place, config, shape);
  const std::uint64_t top = place.block * block_.rows;
  const bool takes_turns = rule.rows == RuleRows::kEven || rule.rows == RuleRows::kOdd;
  std::uint64_t at = 0;  // in the block, where the next rows of the tensor go
  if (rule.rows == RuleRows::kOdd) at = 1;
  if (rule.rows == RuleRows::kLower) {
    at = rule.transposed ? block_.cols - piece.cols : block_.rows - piece.rows;
  }
  std::vector<LayoutLink> links;
  const auto add = [&](std::uint64_t begin, std::uint64_t count) {
    const Box stack = rule.transposed ? Box{top, top + block_.rows, at, at + count}
                                      : Box{top + at, top + at + count, 0, block_.cols};
    links.push_back({{begin, begin + count, 0, whole.cols}, stack, rule.transposed});
  };
  for (const RowRun& run : RowsOf(rule.piece, config, whole.rows)) {
    if (!takes_turns) {
      add(run.begin, run.end - run.begin);
      at += run.end - run.begin;
      continue;
    }
    for (std::uint64_t row = run.begin; row < run.end; ++row, at += 2) add(row, 1);
  }
  return links;
}

}  // namespace dsv3::convert
