#include "cli/balance_svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "cli/expert_load_report.h"
#include "cli/expert_map_svg.h"
#include "cli/rank_balance.h"
#include "cli/reshard_report.h"
#include "cli/svg.h"
#include "cli/svg_axis.h"
#include "cli/units.h"

namespace dsv3::cli {

namespace {

using convert::ModuleKind;
using convert::RankReport;
using convert::ReshardReport;
using convert::Topology;

// From the bottom of a bar to its top, with the class of its colour.
struct Kind {
  ModuleKind kind;
  std::string_view name;
  std::string_view style;
};
constexpr std::array<Kind, convert::kModuleKinds> kKinds = {{
    {ModuleKind::kRoutedExpert, "routed experts", "routed"},
    {ModuleKind::kSharedExpert, "shared experts", "shared"},
    {ModuleKind::kDenseMlp, "dense MLPs", "dense"},
    {ModuleKind::kAttention, "attention", "attention"},
    {ModuleKind::kEmbedding, "embedding", "embedding"},
    {ModuleKind::kHead, "head", "head"},
    {ModuleKind::kOther, "other", "other"},
}};

constexpr std::string_view kStyle =
    "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;"
    "font-size:12px;fill:#57606a}\n"
    ".page{fill:#fff}.card{fill:#f6f8fa}\n"
    ".title{font-size:22px;font-weight:600;fill:#1f2328}.heading{font-size:14px;font-weight:600;"
    "fill:#1f2328}\n"
    ".value{font-size:21px;font-weight:600;fill:#1f2328}.small{font-size:11px}\n"
    ".right{text-anchor:end}.middle{text-anchor:middle}\n"
    ".grid{stroke:#d8dee4;stroke-width:1}.axis{stroke:#8c959f;stroke-width:1}\n"
    ".group{stroke:#d8dee4;stroke-width:1;stroke-dasharray:2 3}\n"
    ".mean{stroke:#1f2328;stroke-width:1.2;stroke-dasharray:5 4}.strong{fill:#1f2328}\n"
    ".routed{fill:#3b73b9}.shared{fill:#6fb7d6}.dense{fill:#4f9d69}.attention{fill:#e8833a}"
    ".embedding{fill:#e9bd45}.head{fill:#a371b8}.other{fill:#98a1aa}\n"
    ".over{fill:#c4532d}.under{fill:#3b73b9}\n"
    ".e0{fill:#2a1a5e}.e1{fill:#34307f}.e2{fill:#33509b}.e3{fill:#2b6ca8}.e4{fill:#2586ac}"
    ".e5{fill:#2a9fa9}.e6{fill:#41b69c}.e7{fill:#6bca86}.e8{fill:#9bda6e}.e9{fill:#cfe65c}\n"
    ".dot{fill:#fff;fill-opacity:.85}.id-light{fill:#fff;font-size:10px}"
    ".id-dark{fill:#1f2328;font-size:10px}\n"
    "@media(prefers-color-scheme:dark){text{fill:#9da7b3}.page{fill:#0d1117}.card{fill:#161b22}"
    ".title,.heading,.value,.strong{fill:#e6edf3}.grid,.group{stroke:#2b323b}.axis{stroke:#6e7681}"
    ".mean{stroke:#e6edf3}.routed{fill:#4f8fdc}.under{fill:#4f8fdc}.over{fill:#e0693f}"
    ".e0{fill:#473a99}.e1{fill:#4650ad}.id-light{fill:#fff}.id-dark{fill:#0d1117}}\n";

constexpr double kWidth = 1200;
constexpr double kMargin = 40;
constexpr double kPlotLeft = 112;
constexpr double kPlotRight = kWidth - kMargin;
constexpr double kCardTop = 84;
constexpr double kCardHeight = 64;
constexpr double kBarsTop = 268;
constexpr double kBarsHeight = 250;
constexpr double kDeviationHeight = 76;
constexpr std::size_t kMostBars = 400;

std::string Subtitle(const Topology& topology) {
  std::string text = fmt::format("TP {} × DP {}", topology.tp, topology.dp);
  if (topology.pp > 1) text += fmt::format(" × PP {}", topology.pp);
  if (topology.experts > 0) {
    text += fmt::format(" · EP {}: {} experts", topology.ep, FormatCount(topology.experts));
    if (topology.redundant_experts > 0) {
      text += fmt::format(" and {} redundant", FormatCount(topology.redundant_experts));
    }
    text += fmt::format(", {} a rank and layer", topology.physical_experts / topology.ep);
  }
  return text;
}

// The bars: each rank, or the one that loads most of several neighbours.
std::vector<const RankReport*> Bars(const ReshardReport& report, std::size_t ranks_a_bar) {
  std::vector<const RankReport*> bars;
  for (std::size_t first = 0; first < report.ranks.size(); first += ranks_a_bar) {
    const std::size_t end = std::min(first + ranks_a_bar, report.ranks.size());
    const RankReport* most = &report.ranks[first];
    for (std::size_t i = first; i < end; ++i) {
      if (report.ranks[i].bytes > most->bytes) most = &report.ranks[i];
    }
    bars.push_back(most);
  }
  return bars;
}

std::string BarTitle(const RankReport& rank) {
  std::string text =
      fmt::format("rank {} (TP {}, DP {}, EP {}): {}", rank.rank.rank, rank.rank.tp_rank,
                  rank.rank.dp_rank, rank.rank.ep_rank, FormatBytes(rank.bytes));
  for (const Kind& kind : kKinds) {
    const std::uint64_t bytes = rank.bytes_by_kind[static_cast<std::size_t>(kind.kind)];
    if (bytes > 0) text += fmt::format("\n{}: {}", kind.name, FormatBytes(bytes));
  }
  return text;
}

void DrawCards(Svg& svg, const ReshardReport& report, const RankBalance& balance) {
  const RankReport& largest = report.ranks[balance.largest];
  const RankReport& smallest = report.ranks[balance.smallest];
  const auto of = [](const RankReport& rank) {
    return fmt::format("rank {} · {} parameters", rank.rank.rank,
                       FormatParameters(rank.parameters));
  };
  const std::array<std::array<std::string, 3>, 4> cards = {{
      {"largest", FormatBytes(largest.bytes), of(largest)},
      {"smallest", FormatBytes(smallest.bytes), of(smallest)},
      {"mean", FormatBytes(static_cast<std::uint64_t>(balance.mean_bytes)),
       "all ranks: " + FormatBytes(balance.total_bytes)},
      {"largest ÷ mean", fmt::format("{:.3f}", balance.imbalance),
       largest.bytes == smallest.bytes ? "all alike" : "1 is even"},
  }};
  constexpr double kGap = 16;
  constexpr double kCardWidth = (kWidth - 2 * kMargin - 3 * kGap) / 4;
  for (std::size_t i = 0; i < cards.size(); ++i) {
    const double x = kMargin + static_cast<double>(i) * (kCardWidth + kGap);
    svg.Rect(x, kCardTop, kCardWidth, kCardHeight, "card", 8);
    svg.Text(x + 16, kCardTop + 22, cards[i][0], "small");
    svg.Text(x + 16, kCardTop + 49, cards[i][1], "value");
    svg.Text(x + kCardWidth - 16, kCardTop + 22, cards[i][2], "small right");
  }
}

void DrawLegend(Svg& svg, const ReshardReport& report, const RankBalance& balance) {
  constexpr double kStep = (kWidth - 2 * kMargin) / static_cast<double>(convert::kModuleKinds);
  double x = kMargin;
  for (const Kind& kind : kKinds) {
    std::uint64_t bytes = 0;
    for (const RankReport& rank : report.ranks) {
      bytes += rank.bytes_by_kind[static_cast<std::size_t>(kind.kind)];
    }
    if (bytes == 0) continue;
    svg.Rect(x, kBarsTop - 50, 11, 11, kind.style, 2);
    svg.Text(x + 17, kBarsTop - 40, kind.name, "strong");
    svg.Text(x + 17, kBarsTop - 24,
             fmt::format("{:.1f} %",
                         100 * static_cast<double>(bytes) /
                             static_cast<double>(std::max<std::uint64_t>(balance.total_bytes, 1))),
             "small");
    x += kStep;
  }
}

// The horizontal places of the bars of both panels.
struct BarRow {
  std::vector<const RankReport*> bars;
  std::size_t ranks_a_bar = 1;
  double left = kPlotLeft;
  double step = 0;   // from bar to bar
  double width = 0;  // of a bar
  double X(std::size_t bar) const {
    return left + static_cast<double>(bar) * step + (step - width) / 2;
  }
};

BarRow PlaceBars(const ReshardReport& report) {
  constexpr double kWidestBar = 72;
  BarRow row;
  row.ranks_a_bar = (report.ranks.size() + kMostBars - 1) / kMostBars;
  row.bars = Bars(report, row.ranks_a_bar);
  row.step = (kPlotRight - kPlotLeft) / static_cast<double>(row.bars.size());
  row.width = std::min(kWidestBar, row.step * (row.step > 8 ? 0.78 : 0.86));
  return row;
}

// Numbers below the bars.
void DrawRankAxis(Svg& svg, const BarRow& row, double bottom) {
  svg.Line(kPlotLeft, bottom, kPlotRight, bottom, "axis");
  const std::size_t every = LabelStep(row.step, 30);
  for (std::size_t i = 0; i < row.bars.size(); i += every) {
    svg.Text(row.left + (static_cast<double>(i) + 0.5) * row.step, bottom + 17,
             std::to_string(i * row.ranks_a_bar), "small middle");
  }
}

// Lines between the groups that share an attention layer, or between stages.
void DrawGroups(Svg& svg, const BarRow& row, const Topology& topology, double top, double bottom) {
  const bool stages = topology.pp > 1;
  const std::uint64_t group = stages ? topology.ranks_per_stage() : topology.tp;
  const double step = row.step * static_cast<double>(group) / static_cast<double>(row.ranks_a_bar);
  if (group <= 1 || step < 24) return;
  const double end = row.left + static_cast<double>(row.bars.size()) * row.step;
  for (std::size_t number = 0;; ++number) {
    const double x = row.left + static_cast<double>(number) * step;
    if (x >= end - 0.5) break;
    if (number > 0) svg.Line(x, top, x, bottom + 4, "group");
    if (stages && step >= 60) svg.Text(x + 6, top + 14, fmt::format("stage {}", number), "small");
  }
}

void DrawBars(Svg& svg, const ReshardReport& report, const RankBalance& balance,
              const BarRow& row) {
  const double bottom = kBarsTop + kBarsHeight;
  const double most = static_cast<double>(report.ranks[balance.largest].bytes);
  const double tick = NiceTick(most, 5);
  const double top_value = std::max(tick, std::ceil(most / tick) * tick);
  const auto y = [&](double bytes) { return bottom - bytes / top_value * kBarsHeight; };
  for (std::size_t i = 0;; ++i) {
    const double value = static_cast<double>(i) * tick;
    if (value > top_value + tick / 2) break;
    if (value > 0) svg.Line(kPlotLeft, y(value), kPlotRight, y(value), "grid");
    svg.Text(kPlotLeft - 10, y(value) + 4,
             value > 0 ? FormatBytes(static_cast<std::uint64_t>(value)) : "0", "right");
  }
  DrawGroups(svg, row, report.topology, kBarsTop, bottom);
  for (std::size_t i = 0; i < row.bars.size(); ++i) {
    svg.BeginGroup(BarTitle(*row.bars[i]));
    double below = 0;
    for (const Kind& kind : kKinds) {
      const auto bytes =
          static_cast<double>(row.bars[i]->bytes_by_kind[static_cast<std::size_t>(kind.kind)]);
      if (bytes == 0) continue;
      svg.Rect(row.X(i), y(below + bytes), row.width, bytes / top_value * kBarsHeight, kind.style);
      below += bytes;
    }
    svg.EndGroup();
  }
  DrawRankAxis(svg, row, bottom);
  svg.Line(kPlotLeft, y(balance.mean_bytes), kPlotRight, y(balance.mean_bytes), "mean");
  svg.Text(kPlotRight + 5, y(balance.mean_bytes) + 4, "mean", "small strong");
}

void DrawDeviation(Svg& svg, const RankBalance& balance, const BarRow& row, double top) {
  double widest = 0;
  const auto deviation = [&](const RankReport& rank) {
    return static_cast<double>(rank.bytes) / balance.mean_bytes - 1;
  };
  for (const RankReport* bar : row.bars) widest = std::max(widest, std::abs(deviation(*bar)));
  const double middle = top + kDeviationHeight / 2;
  const double scale = kDeviationHeight / 2 / widest;
  const std::string reach = fmt::format("{:.{}f} %", 100 * widest, widest < 0.001 ? 3 : 1);
  svg.Line(kPlotLeft, top, kPlotRight, top, "grid");
  svg.Line(kPlotLeft, top + kDeviationHeight, kPlotRight, top + kDeviationHeight, "grid");
  svg.Text(kPlotLeft - 10, top + 4, "+" + reach, "right");
  svg.Text(kPlotLeft - 10, middle + 4, "mean", "right");
  svg.Text(kPlotLeft - 10, top + kDeviationHeight + 4, "−" + reach, "right");
  for (std::size_t i = 0; i < row.bars.size(); ++i) {
    const double height = deviation(*row.bars[i]) * scale;
    if (std::abs(height) < 0.05) continue;
    svg.BeginGroup(
        fmt::format("rank {}: {:+.3f} %", row.bars[i]->rank.rank, 100 * deviation(*row.bars[i])));
    svg.Rect(row.X(i), height > 0 ? middle - height : middle, row.width, std::abs(height),
             height > 0 ? "over" : "under");
    svg.EndGroup();
  }
  svg.Line(kPlotLeft, middle, kPlotRight, middle, "axis");
}

std::string Description(const ReshardReport& report, const RankBalance& balance) {
  const RankReport& largest = report.ranks[balance.largest];
  const RankReport& smallest = report.ranks[balance.smallest];
  return fmt::format(
      "{}. Rank {} loads most, {}; rank {} loads least, {}; the mean is {} and the largest is "
      "{:.3f} "
      "times the mean.",
      Subtitle(report.topology), largest.rank.rank, FormatBytes(largest.bytes), smallest.rank.rank,
      FormatBytes(smallest.bytes), FormatBytes(static_cast<std::uint64_t>(balance.mean_bytes)),
      balance.imbalance);
}

}  // namespace

std::string BalanceSvg(const ReshardReport& report) {
  const RankBalance balance = BalanceOf(report);
  const BarRow row = PlaceBars(report);
  const bool even = report.ranks[balance.largest].bytes == report.ranks[balance.smallest].bytes;
  const double deviation_top = kBarsTop + kBarsHeight + 74;
  const double map_top = even ? kBarsTop + kBarsHeight + 60 : deviation_top + kDeviationHeight + 52;
  const double load_top = map_top + ExpertMapHeight(report) + (report.expert_map.empty() ? 0 : 24);
  const double height = load_top + ExpertLoadHeight(report);

  const std::string title = "Balance of " + FormatCountOf(report.ranks.size(), "rank");
  Svg svg(kWidth, height, title, Description(report, balance), kStyle);
  svg.Rect(0, 0, kWidth, height, "page");
  svg.Text(kMargin, 44, title, "title");
  svg.Text(kMargin, 66, Subtitle(report.topology), "");
  DrawCards(svg, report, balance);
  svg.Text(kMargin, kBarsTop - 72, "Bytes by kind of module", "heading");
  DrawLegend(svg, report, balance);
  DrawBars(svg, report, balance, row);
  svg.Text(kPlotLeft - 10, kBarsTop + kBarsHeight + 17,
           row.ranks_a_bar == 1 ? "rank" : fmt::format("largest of {}", row.ranks_a_bar),
           "small right");
  if (!even) {
    svg.Text(kMargin, deviation_top - 18, "Difference from the mean", "heading");
    DrawDeviation(svg, balance, row, deviation_top);
  }
  DrawExpertMap(svg, report, {kMargin, kPlotLeft, kPlotRight, map_top});
  DrawExpertLoad(svg, report, {kMargin, kPlotLeft, kPlotRight, load_top});
  return svg.Take();
}

}  // namespace dsv3::cli
