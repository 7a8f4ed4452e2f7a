#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::cli {

// Rows of cells in columns, two spaces between them; no space at the end of a line.
class Table {
 public:
  // 'l' and 'r' for each column: left or right.
  explicit Table(std::string_view alignment) : alignment_(alignment) {}

  // At most one cell for each column.
  void Add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

  // Where the lines would be longer than `columns` (0: any length), the widest left column is cut
  // in the middle of its cells, down to kFewestColumns, then the next one; names of tensors keep
  // their layer's number.
  std::string Text(std::string_view indent, std::size_t columns = 0) const;
  // Whether the lines of Text are no longer than `columns` (0: any length) allows, where the left
  // column keeps `fewest`.
  bool Fits(std::string_view indent, std::size_t columns, std::size_t fewest) const;

  // The same, but where lines would be longer the cells of the last column, which is left, go on in
  // lines of their own below. Cells are broken at spaces alone.
  std::string Wrapped(std::string_view indent, std::size_t columns = 0) const;

  static constexpr std::size_t kFewestColumns = 24;

 private:
  std::vector<std::size_t> Widths() const;

  std::string_view alignment_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace dsv3::cli
