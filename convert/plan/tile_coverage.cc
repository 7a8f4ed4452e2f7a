#include "convert/plan/tile_coverage.h"

#include <algorithm>
#include <cstddef>
#include <map>

#include <fmt/format.h>

#include "convert/plan/stepped_tile.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

std::string BoxText(const Box& box) {
  return fmt::format("rows {} to {} of columns {} to {}", box.row_begin, box.row_end, box.col_begin,
                     box.col_end);
}

// Goes down the rows with the tiles that cover the current one.
class Coverage {
 public:
  Coverage(const Catalog& catalog, const std::string& name, const MatrixShape& matrix,
           const std::vector<Tile>& tiles, std::string_view advice)
      : catalog_(catalog), name_(name), matrix_(matrix), tiles_(tiles), advice_(advice) {}

  // Throws unless every element lies in exactly one tile. Returns how many elements of the sources'
  // rows lie beside a row of the value at most.
  std::uint64_t Check() {
    if (matrix_.rows == 0 || matrix_.cols == 0) return 0;
    std::vector<const Tile*> ends;
    for (const Tile& tile : tiles_) ends.push_back(&tile);
    std::sort(ends.begin(), ends.end(),
              [](const Tile* a, const Tile* b) { return a->target.row_end < b->target.row_end; });
    std::size_t next_begin = 0;
    std::size_t next_end = 0;
    std::uint64_t most = 0;
    for (std::uint64_t row = 0; row < matrix_.rows;) {
      while (next_end < ends.size() && ends[next_end]->target.row_end == row) {
        Remove(*ends[next_end++]);
      }
      while (next_begin < tiles_.size() && tiles_[next_begin].target.row_begin == row) {
        Add(tiles_[next_begin++]);
      }
      std::uint64_t end = matrix_.rows;
      if (next_end < ends.size()) end = std::min(end, ends[next_end]->target.row_end);
      if (next_begin < tiles_.size()) end = std::min(end, tiles_[next_begin].target.row_begin);
      if (covered_ < matrix_.cols) FailMissing(row, end);
      most = std::max(most, source_elements_);
      row = end;
    }
    return most;
  }

 private:
  // Elements that are read for a row of the tile.
  std::uint64_t ReadFor(const Tile& tile) const {
    const TileSteps steps = StepsOf(tile, SourceCols(catalog_, tile));
    if (steps.are_plain) return steps.row;
    const std::uint64_t cols = tile.target.cols();
    return steps.by_columns() ? cols * std::max<std::uint64_t>(1, steps.row)
                              : std::max(steps.row, (cols - 1) * steps.col + 1);
  }

  void Add(const Tile& tile) {
    const auto behind = current_.lower_bound(tile.target.col_begin);
    if (behind != current_.end()) RequireApart(tile, *behind->second);
    if (behind != current_.begin()) RequireApart(tile, *std::prev(behind)->second);
    current_.emplace_hint(behind, tile.target.col_begin, &tile);
    covered_ += tile.target.cols();
    source_elements_ += ReadFor(tile);
  }

  void Remove(const Tile& tile) {
    current_.erase(tile.target.col_begin);
    covered_ -= tile.target.cols();
    source_elements_ -= ReadFor(tile);
  }

  void RequireApart(const Tile& a, const Tile& b) const {
    const Box both = Intersect(a.target, b.target);
    if (both.empty()) return;
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: {} come from both {} in {} and {} in {}; each element must come from one "
                    "place: {}",
                    QuoteForMessage(name_), BoxText(both), TensorName(b), FileName(b),
                    TensorName(a), FileName(a), advice_),
        {FileName(a), name_});
  }

  [[noreturn]] void FailMissing(std::uint64_t row, std::uint64_t end) const {
    std::uint64_t col = 0;
    auto tile = current_.begin();
    for (; tile != current_.end() && tile->first == col; ++tile) col = tile->second->target.col_end;
    const Box gap = {row, end, col, tile == current_.end() ? matrix_.cols : tile->first};
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: no file holds {}; expected all {} rows of {} columns: give every "
                    "rank's files, or {}",
                    QuoteForMessage(name_), BoxText(gap), matrix_.rows, matrix_.cols, advice_),
        {"", name_});
  }

  std::string TensorName(const Tile& tile) const {
    return QuoteForMessage(catalog_.NameInFile(tile.tensor));
  }
  std::string FileName(const Tile& tile) const {
    return catalog_.files()[catalog_.tensors()[tile.tensor].extent.file].DisplayName();
  }

  const Catalog& catalog_;
  const std::string& name_;
  const MatrixShape matrix_;
  const std::vector<Tile>& tiles_;
  const std::string_view advice_;
  std::map<std::uint64_t, const Tile*> current_;  // by first column
  std::uint64_t covered_ = 0;                     // columns
  std::uint64_t source_elements_ = 0;
};

}  // namespace

void CheckTile(const Catalog& catalog, const std::string& name, formats::Dtype dtype,
               const MatrixShape& matrix, const Tile& tile, std::string_view advice) {
  const CatalogTensor& source = catalog.tensors().at(tile.tensor);
  const std::string file = catalog.files()[source.extent.file].DisplayName();
  const std::string held_name(catalog.NameInFile(tile.tensor));
  const MatrixShape held = MatrixOf(source.shape);
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: {} of {} {}; {}", formats::ShownPath(file),
                            QuoteForMessage(held_name), QuoteForMessage(name), what, advice),
                {file, held_name});
  };
  if (source.dtype != dtype) {
    fail(fmt::format("is {}, expected {}", formats::DtypeName(source.dtype),
                     formats::DtypeName(dtype)));
  }
  const Box& box = tile.target;
  if (box.row_end > matrix.rows || box.col_end > matrix.cols) {
    fail(fmt::format("is said to hold {}, and there are {} rows of {} columns", BoxText(box),
                     matrix.rows, matrix.cols));
  }
  const TileSteps steps = StepsOf(tile, held.cols);
  if (!steps.are_plain) {
    const auto last = static_cast<unsigned __int128>(tile.row) * held.cols + tile.col +
                      static_cast<unsigned __int128>(box.rows() - 1) * steps.row +
                      static_cast<unsigned __int128>(box.cols() - 1) * steps.col;
    if (last >= static_cast<unsigned __int128>(held.rows) * held.cols) {
      fail(fmt::format("is said to hold {} x {} elements with steps of {} and {}, and has shape {}",
                       box.rows(), box.cols(), steps.row, steps.col,
                       formats::ShapeToString(source.shape)));
    }
    return;
  }
  if (tile.row > held.rows || box.rows() > held.rows - tile.row || tile.col > held.cols ||
      box.cols() > held.cols - tile.col) {
    fail(fmt::format(
        "is said to hold {} x {} elements from row {} and column {} on, and has "
        "shape {}",
        box.rows(), box.cols(), tile.row, tile.col, formats::ShapeToString(source.shape)));
  }
}

std::uint64_t CheckCoverage(const Catalog& catalog, const std::string& name,
                            const MatrixShape& matrix, const std::vector<Tile>& tiles,
                            std::string_view advice) {
  return Coverage(catalog, name, matrix, tiles, advice).Check();
}

}  // namespace dsv3::convert
