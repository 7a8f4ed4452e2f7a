#pragma once

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

  std::string Text(std::string_view indent) const;

 private:
  std::string_view alignment_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace dsv3::cli
