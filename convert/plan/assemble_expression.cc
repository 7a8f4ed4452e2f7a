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
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// Tiles in the order of their first elements.
bool Before(const Tile& a, const Tile& b) {
  if (a.target.row_begin != b.target.row_begin) return a.target.row_begin < b.target.row_begin;
  return a.target.col_begin < b.target.col_begin;
}

std::string BoxText(const Box& box) {
  return fmt::format("rows {} to {} of columns {} to {}", box.row_begin, box.row_end, box.col_begin,
                     box.col_end);
}

std::uint64_t SourceCols(const Catalog& catalog, const Tile& tile) {
  return MatrixOf(catalog.tensors()[tile.tensor].shape).cols;
}

// Rows and columns of the squares in which a tile is transposed.
constexpr std::size_t kSquare = 64;

// Tile::row_step and col_step.
struct Steps {
  std::uint64_t row = 0;
  std::uint64_t col = 1;
  bool are_plain = true;  // the box lies in the source as it is

  // Whether a column's elements lie nearer to each other than a row's. Then they are read by
  // columns, else by rows.
  bool by_columns() const { return col > row; }
};

Steps StepsOf(const Tile& tile, std::uint64_t source_cols) {
  if (tile.row_step == 0) return {source_cols, 1, true};
  // A row of the box must not go on in the source's next row.
  const bool plain = tile.row_step == source_cols && tile.col_step == 1 &&
                     tile.col + tile.target.cols() <= source_cols;
  return {tile.row_step, tile.col_step, plain};
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
      const Steps& steps = placed.steps;
      const std::uint64_t begin_element = placed.first_element() + row * steps.row;
      const std::uint64_t row_span = (last - first - 1) * steps.row;
      const std::uint64_t cols = tile.target.cols();
      const auto read = [&](std::uint64_t from, std::uint64_t elements) {
        reads.push_back({tile.tensor, from * element_bytes_, (from + elements) * element_bytes_});
      };
      if (!steps.by_columns()) {
        read(begin_element, row_span + (cols - 1) * steps.col + 1);
        return;
      }
      if (LeavesNoGaps(steps, last - first)) {
        read(begin_element, row_span + (cols - 1) * steps.col + 1);
        return;
      }
      for (std::uint64_t col = 0; col < cols; ++col) {
        read(begin_element + col * steps.col, row_span + 1);
      }
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
        Gather(placed, last - first, inputs, next, to);
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
    Steps steps;
    std::uint64_t last_row = 0;  // where this tile and all before it end

    std::uint64_t first_element() const { return tile.row * source_cols + tile.col; }
  };

  // Whether columns that are read one by one would be read without a byte between them.
  static bool LeavesNoGaps(const Steps& steps, std::uint64_t rows) {
    return rows * std::max<std::uint64_t>(1, steps.row) >= steps.col;
  }

  // Puts `rows` rows of a stepped tile to `to`, of the inputs from `next` on.
  void Gather(const Placed& placed, std::uint64_t rows,
              std::span<const std::span<const std::byte>> inputs, std::size_t& next,
              std::byte* to) const {
    switch (element_bytes_) {
      case 1:
        return GatherElements<std::uint8_t>(placed, rows, inputs, next, to);
      case 2:
        return GatherElements<std::uint16_t>(placed, rows, inputs, next, to);
      case 4:
        return GatherElements<std::uint32_t>(placed, rows, inputs, next, to);
      default:
        return GatherElements<std::uint64_t>(placed, rows, inputs, next, to);
    }
  }

  // Source and value are unaligned, so elements are moved as bytes of a size that is known here.
  template <typename Element>
  void GatherElements(const Placed& placed, std::uint64_t rows,
                      std::span<const std::span<const std::byte>> inputs, std::size_t& next,
                      std::byte* to) const {
    constexpr std::size_t kWidth = sizeof(Element);
    const auto cols = static_cast<std::size_t>(placed.tile.target.cols());
    const std::size_t row_step = static_cast<std::size_t>(placed.steps.row) * kWidth;
    const std::size_t col_step = static_cast<std::size_t>(placed.steps.col) * kWidth;
    const auto move = [&](const std::byte* from, std::byte* target) {
      std::memcpy(target, from, kWidth);
    };
    if (!placed.steps.by_columns()) {
      const std::byte* from = inputs[next++].data();
      for (std::uint64_t row = 0; row < rows; ++row, from += row_step, to += row_bytes_) {
        if (col_step == kWidth) {
          std::memcpy(to, from, cols * kWidth);
          continue;
        }
        for (std::size_t col = 0; col < cols; ++col) move(from + col * col_step, to + col * kWidth);
      }
      return;
    }
    // Squares that fit the cache: each line of source and value is fetched once.
    const bool one_read = LeavesNoGaps(placed.steps, rows);
    const std::byte* const first = inputs[next].data();
    for (std::size_t col_begin = 0; col_begin < cols; col_begin += kSquare) {
      const std::size_t col_end = std::min(cols, col_begin + kSquare);
      for (std::uint64_t row_begin = 0; row_begin < rows; row_begin += kSquare) {
        const std::uint64_t row_end = std::min<std::uint64_t>(rows, row_begin + kSquare);
        for (std::size_t col = col_begin; col < col_end; ++col) {
          const std::byte* const from =
              one_read ? first + col * col_step : inputs[next + col].data();
          std::byte* const target = to + col * kWidth;
          for (std::uint64_t row = row_begin; row < row_end; ++row) {
            move(from + row * row_step, target + row * row_bytes_);
          }
        }
      }
    }
    next += one_read ? 1 : cols;
  }

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
    const Steps steps = StepsOf(tile, SourceCols(catalog_, tile));
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
  const Steps steps = StepsOf(tile, held.cols);
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
  const std::uint64_t row_elements = Coverage(catalog, name, matrix, tiles, advice).Check();
  return std::make_shared<AssembleExpression>(catalog, dtype, std::move(shape), std::move(tiles),
                                              row_elements);
}

}  // namespace dsv3::convert
