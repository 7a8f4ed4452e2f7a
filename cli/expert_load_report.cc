#include "cli/expert_load_report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "cli/conversion_report.h"
#include "cli/json_members.h"
#include "cli/svg_axis.h"
#include "cli/table.h"
#include "cli/units.h"

namespace dsv3::cli {

namespace {

using convert::ExpertLoad;
using convert::PlacementLoad;
using convert::ReshardReport;
using convert::Topology;

constexpr std::size_t kMostListed = 32;
constexpr double kPanelHeight = 130;
constexpr double kHeading = 46;
constexpr double kFooter = 30;

// Ranks that share the same experts have one load.
struct Row {
  std::uint64_t stage = 0;
  std::uint64_t ep_rank = 0;
  double before = 0;
  double after = 0;
};

std::vector<Row> Rows(const ReshardReport& report) {
  const Topology& topology = report.topology;
  const ExpertLoad& load = *report.expert_load;
  std::vector<Row> rows;
  for (std::uint64_t rank = 0; rank < topology.world_size(); rank += topology.moe_tp) {
    const convert::Rank place = topology.RankAt(rank);
    rows.push_back({place.stage, place.ep_rank, load.before.ranks[rank], load.after.ranks[rank]});
  }
  return rows;
}

// By stage; every placement gives a stage the same.
std::vector<double> MeansOf(const std::vector<Row>& rows, const Topology& topology) {
  std::vector<double> means(topology.pp, 0);
  for (const Row& row : rows) means[row.stage] += row.after / static_cast<double>(topology.ep);
  return means;
}

// Where there are more rows than bars have room, those of the largest loads after placement.
std::vector<Row> Bars(std::vector<Row> rows) {
  constexpr std::size_t kMostBars = 400;
  const std::size_t rows_a_bar = (rows.size() + kMostBars - 1) / kMostBars;
  std::vector<Row> bars;
  for (std::size_t first = 0; first < rows.size(); first += rows_a_bar) {
    const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end =
        rows.begin() + static_cast<std::ptrdiff_t>(std::min(first + rows_a_bar, rows.size()));
    bars.push_back(*std::max_element(begin, end,
                                     [](const Row& a, const Row& b) { return a.after < b.after; }));
  }
  return bars;
}

std::string ToMean(double load, double mean) {
  if (!(mean > 0)) return "";
  const double percent = 100 * (load / mean - 1);
  // No "-0.0 %".
  return fmt::format("{:+.1f} %", std::abs(percent) < 0.05 ? 0.0 : percent);
}

std::string LoadText(double load) {
  constexpr double kMostCounted = 1e15;
  return load < kMostCounted ? FormatCount(static_cast<std::uint64_t>(std::llround(load)))
                             : fmt::format("{:.4g}", load);
}

std::string SummaryOf(const PlacementLoad& load) {
  return fmt::format("largest {:.3f} × mean; in a layer {:.3f} ×, at worst {:.3f} × (layer {})",
                     load.imbalance, load.mean_layer_imbalance, load.worst_layer_imbalance,
                     load.worst_layer);
}

void PlacementMember(formats::JsonWriter& json, std::string_view key, const PlacementLoad& load) {
  json.BeginObject(key);
  json.Double("imbalance", load.imbalance);
  json.Double("mean_layer_imbalance", load.mean_layer_imbalance);
  json.Double("worst_layer_imbalance", load.worst_layer_imbalance);
  json.Uint("worst_layer", load.worst_layer);
  json.Key("ranks");
  formats::JsonWriter line(0);
  line.BeginArray();
  for (const double rank : load.ranks) line.Double(rank);
  line.EndArray();
  json.Raw(line.text());
  json.EndObject();
}

// Where there are too many ranks for a list: how far from the mean the ranks of each share are.
std::string PercentileTable(const std::vector<Row>& rows, const std::vector<double>& means) {
  std::vector<double> before;
  std::vector<double> after;
  for (const Row& row : rows) {
    const double mean = means[row.stage];
    if (!(mean > 0)) continue;
    before.push_back(row.before / mean);
    after.push_back(row.after / mean);
  }
  if (before.empty()) return "";
  std::sort(before.begin(), before.end());
  std::sort(after.begin(), after.end());
  Table table("lrr");
  table.Add({"of the EP ranks", "before", "after"});
  constexpr std::array<std::size_t, 7> kPercent = {0, 10, 25, 50, 75, 90, 100};
  for (const std::size_t percent : kPercent) {
    const std::size_t at = percent * (before.size() - 1) / 100;
    table.Add({percent == 0     ? "smallest"
               : percent == 100 ? "largest"
                                : fmt::format("{} % expect at most", percent),
               ToMean(before[at], 1), ToMean(after[at], 1)});
  }
  return table.Text("  ");
}

}  // namespace

void AppendExpertLoadLines(std::string& out, const ReshardReport& report) {
  if (!report.expert_load) return;
  ReportLine(out, "load before", SummaryOf(report.expert_load->before) + ", if contiguous");
  ReportLine(out, "load after", SummaryOf(report.expert_load->after));
}

std::string ExpertLoadTable(const ReshardReport& report) {
  if (!report.expert_load) return "";
  const std::vector<Row> rows = Rows(report);
  const std::vector<double> means = MeansOf(rows, report.topology);
  const std::string heading =
      "\n  Expected load of the routed experts, and its distance to the mean\n";
  if (rows.size() > kMostListed) {
    const std::string table = PercentileTable(rows, means);
    return table.empty() ? "" : heading + table;
  }
  const bool stages = report.topology.pp > 1;
  Table table("rrrrrr");
  const auto add = [&](const std::array<std::string, 6>& cells) {
    table.Add({cells.begin() + (stages ? 0 : 1), cells.end()});
  };
  add({"stage", "EP rank", "before", "to mean", "after", "to mean"});
  for (const Row& row : rows) {
    const double mean = means[row.stage];
    add({std::to_string(row.stage), std::to_string(row.ep_rank), LoadText(row.before),
         ToMean(row.before, mean), LoadText(row.after), ToMean(row.after, mean)});
  }
  return heading + table.Text("  ");
}

void ExpertLoadMember(formats::JsonWriter& json, const ReshardReport& report) {
  json.Key("expert_load");
  if (!report.expert_load) return json.Null();
  json.BeginObject();
  PlacementMember(json, "before", report.expert_load->before);
  PlacementMember(json, "after", report.expert_load->after);
  json.EndObject();
}

double ExpertLoadHeight(const ReshardReport& report) {
  return report.expert_load ? kHeading + kPanelHeight + kFooter : 0;
}

void DrawExpertLoad(Svg& svg, const ReshardReport& report, const ExpertLoadPlace& place) {
  if (!report.expert_load) return;
  const std::vector<Row> all = Rows(report);
  const std::vector<double> means = MeansOf(all, report.topology);
  const std::vector<Row> rows = Bars(all);
  svg.Text(place.margin, place.top + 18, "Expected load of the routed experts", "heading");
  const std::array<std::pair<std::string_view, std::string>, 2> legend = {
      {{"other",
        fmt::format("contiguous: largest {:.3f} × mean", report.expert_load->before.imbalance)},
       {"routed",
        fmt::format("balanced: largest {:.3f} × mean", report.expert_load->after.imbalance)}}};
  double x = place.right - 480;
  for (const auto& [style, text] : legend) {
    svg.Rect(x, place.top + 8, 11, 11, style, 2);
    svg.Text(x + 17, place.top + 18, text, "small");
    x += 250;
  }
  const double top = place.top + kHeading;
  const double bottom = top + kPanelHeight;
  double most = 0;
  for (const Row& row : rows) {
    const double mean = means[row.stage];
    if (mean > 0) most = std::max({most, row.before / mean, row.after / mean});
  }
  const double scale = most > 0 ? kPanelHeight / most : 0;
  const double step = (place.right - place.left) / static_cast<double>(rows.size());
  const double width = std::min(30.0, step * 0.4);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    const double mean = means[row.stage];
    const double middle = place.left + (static_cast<double>(i) + 0.5) * step;
    svg.BeginGroup(fmt::format("EP rank {}{}: {} before ({}), {} after ({})", row.ep_rank,
                               report.topology.pp > 1 ? fmt::format(" of stage {}", row.stage) : "",
                               LoadText(row.before), ToMean(row.before, mean), LoadText(row.after),
                               ToMean(row.after, mean)));
    if (mean > 0) {
      const double before = row.before / mean * scale;
      const double after = row.after / mean * scale;
      svg.Rect(middle - width, bottom - before, width, before, "other");
      svg.Rect(middle, bottom - after, width, after, "routed");
    }
    svg.EndGroup();
  }
  if (scale > 0) {
    svg.Line(place.left, bottom - scale, place.right, bottom - scale, "mean");
    svg.Text(place.left - 10, bottom - scale + 4, "mean", "small right");
  }
  svg.Line(place.left, bottom, place.right, bottom, "axis");
  svg.Text(place.left - 10, bottom + 17, "EP rank", "small right");
  const std::size_t every = LabelStep(step, 30);
  for (std::size_t i = 0; i < rows.size(); i += every) {
    svg.Text(place.left + (static_cast<double>(i) + 0.5) * step, bottom + 17,
             std::to_string(rows[i].ep_rank), "small middle");
  }
}

}  // namespace dsv3::cli
