#include "cli/table.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace dsv3::cli {

namespace {

// Columns of a terminal that a text takes, for the characters used here: each code point is one.
std::size_t Width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string Pad(std::string_view text, std::size_t width, bool right) {
  const std::size_t used = Width(text);
  const std::string space(used < width ? width - used : 0, ' ');
  return right ? space + std::string(text) : std::string(text) + space;
}

// The first and the last characters of the text, with "…" for those between them. What a tensor's
// name has before its layer's number goes first: it is the same in all names.
std::string CutMiddle(std::string text, std::size_t width) {
  constexpr std::string_view kLayers = "layers.";
  if (Width(text) <= width) return text;
  if (const std::size_t layers = text.find(kLayers); layers != std::string::npos) {
    text.replace(0, layers + kLayers.size(), "…");
    if (Width(text) <= width) return text;
  }
  const std::size_t front = (width - 1) / 3;
  const std::size_t back = width - 1 - front;
  // Where the count of characters from either end is reached.
  std::size_t begin = 0;
  for (std::size_t seen = 0; begin < text.size(); ++begin) {
    if ((text[begin] & 0xC0) != 0x80 && seen++ == front) break;
  }
  std::size_t end = text.size();
  for (std::size_t seen = 0; seen < back; --end) {
    if ((text[end - 1] & 0xC0) != 0x80) ++seen;
  }
  return text.substr(0, begin) + "…" + text.substr(end);
}

// The widest left column; the number of columns where there is none.
std::size_t ColumnToCut(const std::vector<std::size_t>& widths, std::string_view alignment) {
  std::size_t cut = widths.size();
  for (std::size_t i = 0; i < widths.size(); ++i) {
    if (alignment[i] == 'l' && (cut == widths.size() || widths[i] > widths[cut])) cut = i;
  }
  return cut;
}

// Lines of the text that are no longer than `width` where its words are not.
std::vector<std::string> Lines(std::string_view text, std::size_t width) {
  std::vector<std::string> lines = {""};
  while (!text.empty()) {
    const std::string_view word = text.substr(0, std::min(text.find(' '), text.size()));
    text.remove_prefix(std::min(word.size() + 1, text.size()));
    std::string& line = lines.back();
    if (!line.empty() && Width(line) + 1 + Width(word) > width) {
      lines.emplace_back(word);
    } else {
      line.append(line.empty() ? "" : " ").append(word);
    }
  }
  return lines;
}

std::size_t TotalWidth(std::string_view indent, const std::vector<std::size_t>& widths) {
  const std::size_t gaps = 2 * (widths.empty() ? 0 : widths.size() - 1);
  return std::accumulate(widths.begin(), widths.end(), Width(indent) + gaps);
}

}  // namespace

std::vector<std::size_t> Table::Widths() const {
  std::vector<std::size_t> widths(alignment_.size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  return widths;
}

bool Table::Fits(std::string_view indent, std::size_t columns, std::size_t fewest) const {
  const std::vector<std::size_t> widths = Widths();
  const std::size_t cut = ColumnToCut(widths, alignment_);
  std::size_t total = TotalWidth(indent, widths);
  if (cut < widths.size() && widths[cut] > fewest) total -= widths[cut] - fewest;
  return columns == 0 || total <= columns;
}

std::string Table::Wrapped(std::string_view indent, std::size_t columns) const {
  const std::vector<std::size_t> widths = Widths();
  const std::size_t total = TotalWidth(indent, widths);
  if (columns == 0 || total <= columns) return Text(indent);
  const std::size_t before = total - widths.back();
  constexpr std::size_t kFewestForWords = 16;
  const std::size_t room = std::max(kFewestForWords, columns - std::min(columns, before));
  Table wrapped(alignment_);
  for (const auto& row : rows_) {
    if (row.size() < alignment_.size()) {
      wrapped.Add(row);
      continue;
    }
    std::vector<std::string> cells(row.begin(), row.end() - 1);
    for (std::string& line : Lines(row.back(), room)) {
      cells.push_back(std::move(line));
      wrapped.Add(std::move(cells));
      cells.assign(row.size() - 1, "");
    }
  }
  return wrapped.Text(indent);
}

std::string Table::Text(std::string_view indent, std::size_t columns) const {
  std::vector<std::size_t> widths = Widths();
  const std::size_t total = TotalWidth(indent, widths);
  for (std::size_t over = columns > 0 && total > columns ? total - columns : 0; over > 0;) {
    const std::size_t cut = ColumnToCut(widths, alignment_);
    if (cut == widths.size() || widths[cut] <= kFewestColumns) break;
    const std::size_t less = std::min(over, widths[cut] - kFewestColumns);
    widths[cut] -= less;
    over -= less;
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line(indent);
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (i > 0) line += "  ";
      line += Pad(CutMiddle(row[i], widths[i]), widths[i], alignment_[i] == 'r');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace dsv3::cli
