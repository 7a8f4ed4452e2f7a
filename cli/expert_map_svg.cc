#include "cli/expert_map_svg.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "cli/rank_balance.h"
#include "cli/svg_axis.h"
#include "cli/units.h"

namespace dsv3::cli {

namespace {

using convert::ReshardReport;

constexpr std::size_t kColors = 10;
// Cells of a picture that a browser still shows at once.
constexpr std::size_t kMostCells = 40'000;
constexpr std::size_t kMostRows = 128;
constexpr double kHeading = 46;
constexpr double kFooter = 30;
constexpr double kOnlyRowHeight = 40;
constexpr double kRowHeight = 7;

// The layers that have a row.
std::vector<std::size_t> Rows(const ReshardReport& report) {
  const std::size_t first = report.first_moe_layer;
  if (first >= report.expert_map.size()) return {};
  if (SameMapInAllLayers(report)) return {first};
  const std::size_t layers = report.expert_map.size() - first;
  const std::size_t slots = std::max<std::size_t>(report.expert_map[first].size(), 1);
  const std::size_t most = std::clamp<std::size_t>(kMostCells / slots, 1, kMostRows);
  const std::size_t every = (layers + most - 1) / most;
  std::vector<std::size_t> rows;
  for (std::size_t layer = first; layer < report.expert_map.size(); layer += every) {
    rows.push_back(layer);
  }
  return rows;
}

std::size_t ColorOf(std::uint64_t expert, std::uint64_t experts) {
  return std::min<std::size_t>(kColors - 1, expert * kColors / std::max<std::uint64_t>(experts, 1));
}

// Draws the cells, one path a colour.
class Cells {
 public:
  Cells(const ReshardReport& report, const ExpertMapPlace& place, std::size_t slots)
      : report_(report),
        held_(slots / report.topology.ep),
        left_(place.left),
        slot_width_((place.right - place.left) / static_cast<double>(slots)),
        gap_(rank_width() > 8 ? 2 : std::min(0.4, rank_width() / 8)) {}

  void AddRow(std::size_t layer, double top, double height) {
    const std::vector<std::uint32_t>& map = report_.expert_map[layer];
    std::vector<std::uint32_t> counts(report_.topology.experts, 0);
    for (const std::uint32_t expert : map) ++counts.at(expert);
    for (std::size_t begin = 0; begin < map.size();) {
      const std::size_t color = ColorOf(map[begin], report_.topology.experts);
      std::size_t end = begin + 1;
      while (end < map.size() && end % held_ != 0 &&
             ColorOf(map[end], report_.topology.experts) == color) {
        ++end;
      }
      AddBox(paths_[color], X(begin), top, X(end) - X(begin) - (end % held_ == 0 ? gap_ : 0),
             height);
      begin = end;
    }
    for (std::size_t slot = 0; slot < map.size(); ++slot) {
      if (counts[map[slot]] > 1) AddDot(slot, top, height);
    }
  }

  // The experts' numbers, where they fit.
  void DrawNumbers(Svg& svg, std::size_t layer, double top, double height) const {
    if (slot_width_ < 22) return;
    const std::vector<std::uint32_t>& map = report_.expert_map[layer];
    for (std::size_t slot = 0; slot < map.size(); ++slot) {
      const bool light = ColorOf(map[slot], report_.topology.experts) < kColors / 2;
      svg.Text(X(slot) + (slot_width_ - gap_) / 2, top + height / 2 + 4, std::to_string(map[slot]),
               light ? "id-light middle" : "id-dark middle");
    }
  }

  void Draw(Svg& svg) const {
    for (std::size_t color = 0; color < kColors; ++color) {
      if (!paths_[color].empty()) svg.Path(paths_[color], fmt::format("e{}", color));
    }
    if (!dots_.empty()) svg.Path(dots_, "dot");
  }

  double X(std::size_t slot) const { return left_ + static_cast<double>(slot) * slot_width_; }
  double rank_width() const { return slot_width_ * static_cast<double>(held_); }

 private:
  static void AddBox(std::string& path, double x, double y, double width, double height) {
    path += fmt::format("M{} {}h{}v{}h{}z", Svg::Number(x), Svg::Number(y), Svg::Number(width),
                        Svg::Number(height), Svg::Number(-width));
  }
  // A square in the middle of a narrow cell, at the foot of a high one.
  void AddDot(std::size_t slot, double top, double height) {
    const double size = std::min({4.0, slot_width_ * 0.5, height * 0.4});
    const double y = height > 20 ? top + height - size - 5 : top + (height - size) / 2;
    AddBox(dots_, X(slot) + (slot_width_ - size) / 2, y, size, size);
  }

  const ReshardReport& report_;
  const std::size_t held_;  // slots of a rank
  const double left_;
  const double slot_width_;
  const double gap_;  // between ranks
  std::array<std::string, kColors> paths_;
  std::string dots_;
};

void DrawLegend(Svg& svg, const ReshardReport& report, const ExpertMapPlace& place) {
  constexpr double kStep = 14;
  double x = place.right - kStep * kColors - 46;
  const double y = place.top + 8;
  if (ReplicasOf(report).most > 1) {
    svg.Rect(x - 216, y, 12, 12, "e3", 2);
    svg.Rect(x - 212, y + 4, 4, 4, "dot");
    svg.Text(x - 198, y + 10, "more than one replica", "small");
  }
  svg.Text(x - 8, y + 10, "expert 0", "small right");
  for (std::size_t color = 0; color < kColors; ++color, x += kStep) {
    svg.Rect(x, y, kStep, 12, fmt::format("e{}", color));
  }
  svg.Text(x + 8, y + 10, std::to_string(report.topology.experts - 1), "small");
}

std::string Heading(const ReshardReport& report) {
  const std::size_t layers = report.expert_map.size() - report.first_moe_layer;
  std::string text = "Experts of each EP rank";
  if (SameMapInAllLayers(report)) {
    text += layers == 1 ? "" : fmt::format(", the same in all {} layers", layers);
  } else {
    text += ", layer by layer";
  }
  return text;
}

}  // namespace

double ExpertMapHeight(const ReshardReport& report) {
  const std::size_t rows = Rows(report).size();
  if (rows == 0) return 0;
  return kHeading + (rows == 1 ? kOnlyRowHeight : kRowHeight * static_cast<double>(rows)) + kFooter;
}

void DrawExpertMap(Svg& svg, const ReshardReport& report, const ExpertMapPlace& place) {
  const std::vector<std::size_t> rows = Rows(report);
  if (rows.empty()) return;
  const std::size_t slots = report.expert_map[rows[0]].size();
  svg.Text(place.margin, place.top + 18, Heading(report), "heading");
  DrawLegend(svg, report, place);
  Cells cells(report, place, slots);
  const bool only = rows.size() == 1;
  const double row_height = only ? kOnlyRowHeight : kRowHeight;
  const double top = place.top + kHeading;
  const std::size_t labels = LabelStep(row_height, 22);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double y = top + static_cast<double>(i) * row_height;
    cells.AddRow(rows[i], y, only ? row_height : row_height - 1);
    if (only || i % labels != 0) continue;
    svg.Text(place.left - 10, y + 7, fmt::format("layer {}", rows[i]), "small right");
  }
  cells.Draw(svg);
  if (only) cells.DrawNumbers(svg, rows[0], top, row_height);
  const double bottom = top + static_cast<double>(rows.size()) * row_height;
  svg.Text(place.left - 10, bottom + 17, "EP rank", "small right");
  const std::size_t every = LabelStep(cells.rank_width(), 30);
  for (std::size_t rank = 0; rank < report.topology.ep; rank += every) {
    svg.Text(place.left + (static_cast<double>(rank) + 0.5) * cells.rank_width(), bottom + 17,
             std::to_string(rank), "small middle");
  }
}

}  // namespace dsv3::cli
