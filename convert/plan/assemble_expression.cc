#include "convert/plan/assemble_expression.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/plan/stepped_tile.h"
#include "convert/plan/tile_coverage.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

// Tiles in the order of their first elements.
bool Before(const Tile& a, const Tile& b) {
  if (a.target.row_begin != b.target.row_begin) return a.target.row_begin < b.target.row_begin;
  return a.target.col_begin < b.target.col_begin;
}

class AssembleExpression final : public Expression {
 public:
  // `tiles` are in order and cover the value; `row_elements` of sources are read for a row at most.
  AssembleExpression(const Catalog& catalog, formats::Dtype dtype, formats::Shape shape,
                     const std::vector<Tile>& tiles, std::uint64_t row_elements)
      : Expression(dtype, std::move(shape)),
        matrix_(MatrixOf(this->shape())),
        element_bytes_(formats::DtypeBits(dtype) / 8),
        row_bytes_(matrix_.cols * element_bytes_),
        row_elements_(row_elements) {
    tiles_.reserve(tiles.size());
    std::uint64_t last_row = 0;
    for (const Tile& tile : tiles) {
      Placed& placed = tiles_.emplace_back();
      placed.tile = tile;
      placed.source_cols = SourceCols(catalog, tile);
      placed.steps = StepsOf(tile, placed.source_cols);
      last_row = std::max(last_row, tile.target.row_end);
      placed.last_row = last_row;
      whole_rows_ = whole_rows_ && placed.steps.are_plain && tile.target.cols() == matrix_.cols &&
                    placed.source_cols == matrix_.cols;
    }
  }

  std::string_view rule() const override { return "assemble"; }
  // Sources are named by their place among the streamed ones.
  std::string parameters() const override {
    std::map<std::uint32_t, std::size_t> place_of;
    std::string text;
    for (const Placed& placed : tiles_) {
      const Tile& tile = placed.tile;
      const std::size_t place = place_of.emplace(tile.tensor, place_of.size()).first->second;
      text += fmt::format(FMT_STRING("{}-{},{}-{}={}:{},{};"), tile.target.row_begin,
                          tile.target.row_end, tile.target.col_begin, tile.target.col_end, place,
                          tile.row, tile.col);
      if (!placed.steps.are_plain) {
        text += fmt::format(FMT_STRING("+{}+{};"), placed.steps.row, placed.steps.col);
      }
    }
    return text;
  }

  std::vector<std::uint32_t> streamed_sources() const override {
    std::map<std::uint32_t, std::size_t> place_of;
    for (const Placed& placed : tiles_) place_of.emplace(placed.tile.tensor, place_of.size());
    std::vector<std::uint32_t> sources(place_of.size());
    for (const auto& [tensor, place] : place_of) sources[place] = tensor;
    return sources;
  }
  bool streams_whole_source() const override { return false; }

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position - position % (whole_rows_ ? element_bytes_ : row_bytes_);
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return CutAtOrBefore(position) + (whole_rows_ ? element_bytes_ : row_bytes_);
  }

  std::uint64_t input_bytes_per_output_byte() const override {
    return whole_rows_ ? 1 : CeilDiv(row_elements_, matrix_.cols);
  }

  std::optional<SourceRange> AsStored(std::uint64_t begin, std::uint64_t end) const override {
    if (!whole_rows_) return std::nullopt;
    std::optional<SourceRange> stored;
    ForEachPiece(begin, end, [&](const Placed& placed, std::uint64_t first, std::uint64_t last) {
      const Tile& tile = placed.tile;
      if (first != begin || last != end) return;
      const std::uint64_t source_begin = tile.row * row_bytes_;
      const std::uint64_t target_begin = tile.target.row_begin * row_bytes_;
      stored = {tile.tensor, source_begin + (first - target_begin),
                source_begin + (last - target_begin)};
    });
    return stored;
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    ForEachPiece(begin, end, [&](const Placed& placed, std::uint64_t first, std::uint64_t last) {
      const Tile& tile = placed.tile;
      if (whole_rows_) {
        const std::uint64_t moved = (tile.row - tile.target.row_begin) * row_bytes_;
        reads.push_back({tile.tensor, first + moved, last + moved});
        return;
      }
      const std::uint64_t row = first - tile.target.row_begin;
      if (placed.steps.are_plain) {
        const std::uint64_t source_row_bytes = placed.source_cols * element_bytes_;
        reads.push_back({tile.tensor, (tile.row + row) * source_row_bytes,
                         (tile.row + row + (last - first)) * source_row_bytes});
        return;
      }
      AppendSteppedReads(tile, placed.steps, placed.first_element() + row * placed.steps.row,
                         last - first, element_bytes_, reads);
    });
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    std::size_t next = 0;
    ForEachPiece(begin, end, [&](const Placed& placed, std::uint64_t first, std::uint64_t last) {
      if (!placed.steps.are_plain) {
        std::byte* const to = out.value.data() + (first - begin / row_bytes_) * row_bytes_ +
                              placed.tile.target.col_begin * element_bytes_;
        next += GatherStepped(placed.tile, placed.steps, last - first, element_bytes_,
                              inputs.subspan(next), to, row_bytes_);
        return;
      }
      const std::span<const std::byte> input = inputs[next++];
      if (whole_rows_) {
        std::memcpy(out.value.data() + (first - begin), input.data(), input.size());
        return;
      }
      const Tile& tile = placed.tile;
      const auto bytes = static_cast<std::size_t>(tile.target.cols() * element_bytes_);
      const std::byte* from = input.data() + tile.col * element_bytes_;
      std::byte* to = out.value.data() + (first - begin / row_bytes_) * row_bytes_ +
                      tile.target.col_begin * element_bytes_;
      for (std::uint64_t row = first; row < last; ++row) {
        std::memcpy(to, from, bytes);
        from += placed.source_cols * element_bytes_;
        to += row_bytes_;
      }
    });
  }

 private:
  struct Placed {
    Tile tile;
    std::uint64_t source_cols = 0;
    TileSteps steps;
    std::uint64_t last_row = 0;  // where this tile and all before it end

    std::uint64_t first_element() const { return tile.row * source_cols + tile.col; }
  };

  // Calls `function` with each tile that has bytes of [begin, end) and what it has of them: bytes
  // of the value if all tiles are whole rows, otherwise rows.
  template <typename Function>
  void ForEachPiece(std::uint64_t begin, std::uint64_t end, Function&& function) const {
    const std::uint64_t first_row = begin / row_bytes_;
    const auto first =
        std::partition_point(tiles_.begin(), tiles_.end(),
                             [&](const Placed& placed) { return placed.last_row <= first_row; });
    const std::uint64_t end_row = CeilDiv(end, row_bytes_);
    const std::uint64_t unit = whole_rows_ ? row_bytes_ : 1;
    const std::uint64_t from = whole_rows_ ? begin : first_row;
    const std::uint64_t to = whole_rows_ ? end : end_row;
    for (auto placed = first; placed != tiles_.end(); ++placed) {
      const Box& box = placed->tile.target;
      if (box.row_begin >= end_row) break;
      const std::uint64_t piece_begin = std::max(from, box.row_begin * unit);
      const std::uint64_t piece_end = std::min(to, box.row_end * unit);
      if (piece_begin < piece_end) function(*placed, piece_begin, piece_end);
    }
  }

  const MatrixShape matrix_;
  const std::uint64_t element_bytes_;
  const std::uint64_t row_bytes_;
  const std::uint64_t row_elements_;
  std::vector<Placed> tiles_;
  bool whole_rows_ = true;  // of the value, which are whole rows of their sources
};

}  // namespace

ExpressionPtr Assemble(const Catalog& catalog, const std::string& name, formats::Dtype dtype,
                       formats::Shape shape, std::vector<Tile> tiles, std::string_view advice) {
  if (formats::DtypeBits(dtype) % 8 != 0 || !formats::NumBytes(dtype, shape)) {
    throw Error(ErrorCode::kInternal, "a tensor without a size in bytes reached the plan",
                {"", name});
  }
  const MatrixShape matrix = MatrixOf(shape);
  std::erase_if(tiles, [](const Tile& tile) { return tile.target.empty(); });
  for (const Tile& tile : tiles) CheckTile(catalog, name, dtype, matrix, tile, advice);
  if (tiles.size() == 1 && tiles[0].target == Whole(matrix) &&
      StepsOf(tiles[0], SourceCols(catalog, tiles[0])).are_plain &&
      catalog.tensors()[tiles[0].tensor].shape == shape) {
    return Copy(catalog, tiles[0].tensor);
  }
  std::sort(tiles.begin(), tiles.end(), Before);
  const std::uint64_t row_elements = CheckCoverage(catalog, name, matrix, tiles, advice);
  return std::make_shared<AssembleExpression>(catalog, dtype, std::move(shape), std::move(tiles),
                                              row_elements);
}

}  // namespace dsv3::convert
