#include "convert/plan/recut_scales_expression.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/catalog/box.h"
#include "convert/catalog/ceil_div.h"
#include "convert/plan/origin_expression.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

// One dimension of the two grids of scales. Both meet after each unit: one scale of the coarser
// grid, several of the finer one (the last unit may have fewer).
struct Grid {
  Grid(std::uint64_t extent, std::uint64_t from_block, std::uint64_t to_block)
      : from_unit(std::max<std::uint64_t>(1, to_block / from_block)),
        to_unit(std::max<std::uint64_t>(1, from_block / to_block)),
        from(CeilDiv(extent, from_block)),
        to(CeilDiv(extent, to_block)) {}

  // The scale of the old grid for one of the new grid.
  std::uint64_t FromOf(std::uint64_t position) const { return position / to_unit * from_unit; }

  std::uint64_t from_unit;
  std::uint64_t to_unit;
  std::uint64_t from;
  std::uint64_t to;
};

bool Divides(std::uint64_t a, std::uint64_t b) {
  return a != 0 && b != 0 && (a % b == 0 || b % a == 0);
}

class RecutScalesExpression final : public OriginExpression {
 public:
  RecutScalesExpression(const ExpressionPtr& scales, const Grid& rows, const Grid& cols)
      : OriginExpression(scales, scales->dtype(), {rows.to, cols.to}),
        rows_(rows),
        cols_(cols),
        element_bytes_(formats::DtypeBits(dtype()) / 8),
        from_row_bytes_(cols.from * element_bytes_),
        to_row_bytes_(cols.to * element_bytes_) {}

  std::string_view rule() const override { return "recut-scales"; }
  std::string parameters() const override {
    return fmt::format("{}:{} {}:{} {} {}", rows_.from_unit, rows_.to_unit, cols_.from_unit,
                       cols_.to_unit, origin().rule(), origin().parameters());
  }

  // Between units of rows: so each row of the source is read once.
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position - position % (rows_.to_unit * to_row_bytes_);
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return std::min(num_bytes(), CutAtOrBefore(position) + rows_.to_unit * to_row_bytes_);
  }

  // The rows are read and then made whole beside the value.
  std::uint64_t input_bytes_per_output_byte() const override {
    if (num_bytes() == 0) return 1;
    const std::uint64_t last_unit = rows_.to % rows_.to_unit;
    const std::uint64_t unit = last_unit != 0 ? last_unit : rows_.to_unit;
    return CeilDiv(from_row_bytes_ * rows_.from_unit, to_row_bytes_ * unit) *
           (origin().input_bytes_per_output_byte() + 1);
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    const ByteRange range = FromRange(begin, end);
    origin().AppendReads(range.begin, range.end, reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    const ByteRange range = FromRange(begin, end);
    std::vector<std::byte> from(static_cast<std::size_t>(range.size()));
    EvaluationOutput made{from, {}, std::move(out.counts)};
    origin().Evaluate(range.begin, range.end, inputs, made);
    out.counts = std::move(made.counts);
    const std::uint64_t first = begin / to_row_bytes_;
    const std::uint64_t first_from = rows_.FromOf(first);
    const auto bytes = static_cast<std::size_t>(element_bytes_);
    std::byte* to = out.value.data();
    for (std::uint64_t row = first; row < end / to_row_bytes_; ++row) {
      const std::byte* const from_row =
          from.data() + (rows_.FromOf(row) - first_from) * from_row_bytes_;
      for (std::uint64_t col = 0; col < cols_.to; ++col, to += bytes) {
        std::memcpy(to, from_row + cols_.FromOf(col) * bytes, bytes);
      }
    }
  }

 private:
  // Whole units, so that no byte is left out where the grid becomes coarser.
  ByteRange FromRange(std::uint64_t begin, std::uint64_t end) const {
    const std::uint64_t last = CeilDiv(end / to_row_bytes_, rows_.to_unit) * rows_.from_unit;
    return {rows_.FromOf(begin / to_row_bytes_) * from_row_bytes_,
            std::min(last, rows_.from) * from_row_bytes_};
  }

  const Grid rows_;
  const Grid cols_;
  const std::uint64_t element_bytes_;
  const std::uint64_t from_row_bytes_;
  const std::uint64_t to_row_bytes_;
};

}  // namespace

ExpressionPtr RecutScales(const ExpressionPtr& scales, std::uint64_t rows, std::uint64_t cols,
                          quant::BlockShape from, quant::BlockShape to) {
  if (!Divides(from.rows, to.rows) || !Divides(from.cols, to.cols)) {
    throw Error(ErrorCode::kInternal,
                fmt::format("scales of {} x {} blocks cannot be recut for {} x {} blocks",
                            from.rows, from.cols, to.rows, to.cols));
  }
  const Grid row_grid(rows, from.rows, to.rows);
  const Grid col_grid(cols, from.cols, to.cols);
  const MatrixShape found = MatrixOf(scales->shape());
  if (formats::DtypeBits(scales->dtype()) % 8 != 0 || scales->by_product() != nullptr ||
      scales->maker() != nullptr || found != MatrixShape{row_grid.from, col_grid.from}) {
    throw Error(ErrorCode::kInternal,
                fmt::format("scales of shape {} reached the plan for a {} x {} weight",
                            formats::ShapeToString(scales->shape()), rows, cols));
  }
  return std::make_shared<RecutScalesExpression>(scales, row_grid, col_grid);
}

}  // namespace dsv3::convert
