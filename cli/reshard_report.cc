#include "cli/reshard_report.h"

#include <algorithm>
#include <array>
#include <vector>

#include <fmt/format.h>

#include "cli/conversion_report.h"
#include "cli/expert_load_report.h"
#include "cli/rank_balance.h"
#include "cli/rank_list.h"
#include "cli/table.h"
#include "cli/units.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

using convert::ConversionReport;
using convert::RankReport;
using convert::ReshardReport;
using convert::ReshardRequest;
using convert::Topology;

// Ranks that are listed one by one.
constexpr std::size_t kMostListed = 32;
constexpr std::size_t kMostClasses = 12;

// "32 = attention TP 4 × DP 8", with the stages where there are several.
std::string RanksText(const Topology& topology) {
  std::string text = fmt::format("{} = TP {} × DP {}", FormatCount(topology.world_size()),
                                 topology.tp, topology.dp);
  if (topology.pp > 1) text += fmt::format(" × PP {}", topology.pp);
  return text;
}

std::string ExpertsText(const Topology& topology) {
  std::string text = FormatCount(topology.experts);
  if (topology.redundant_experts > 0) {
    text += fmt::format(" + {} redundant", FormatCount(topology.redundant_experts));
  }
  text += fmt::format(" over EP {}: {} a rank and layer", topology.ep,
                      topology.physical_experts / topology.ep);
  if (topology.moe_tp > 1) text += fmt::format(", each cut {} ways", topology.moe_tp);
  return text;
}

// Modules that are cut in another number of ways than attention; empty where there are none.
std::string OtherSizesText(const Topology& topology) {
  std::string text;
  const auto add = [&](std::string_view what, std::uint64_t ways) {
    if (ways == topology.tp) return;
    if (!text.empty()) text += ", ";
    text += std::string(what) + (ways == 1 ? " whole" : fmt::format(" TP {}", ways));
  };
  add("dense layers", topology.dense_tp);
  if (topology.experts > 0) add("shared experts", topology.shared_expert_tp);
  add("embedding and head", topology.embed_tp);
  return text;
}

std::string StagesText(const Topology& topology) {
  std::string text;
  for (std::uint64_t stage = 0; stage < topology.pp; ++stage) {
    if (stage == 4 && topology.pp > 5) {
      return text + fmt::format(", … ({} stages)", topology.pp);
    }
    if (stage > 0) text += ", ";
    const std::uint64_t first = topology.FirstLayerOf(stage);
    const std::uint64_t last = topology.FirstLayerOf(stage + 1) - 1;
    text += first == last ? std::to_string(first) : fmt::format("{}-{}", first, last);
  }
  return text;
}

// The first few names, and how many there are.
std::string NamesText(const std::vector<std::string>& names) {
  constexpr std::size_t kNamed = 3;
  std::string text;
  for (std::size_t i = 0; i < std::min(kNamed, names.size()); ++i) {
    text += (i > 0 ? ", " : "") + Printable(names[i]);
  }
  if (names.size() > kNamed) text += fmt::format(", … ({} in all)", FormatCount(names.size()));
  return text;
}

// How many tensors there are, and what all their names begin with: "220 tensors of
// model.layers.61".
std::string TensorsText(const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::string_view common = names[0];
  for (const std::string& name : names) {
    while (!std::string_view(name).starts_with(common) ||
           (name.size() > common.size() && name[common.size()] != '.')) {
      const std::size_t dot = common.rfind('.');
      common = common.substr(0, dot == std::string_view::npos ? 0 : dot);
      if (common.empty()) break;
    }
    if (common.empty()) break;
  }
  std::string text = FormatCountOf(names.size(), "tensor");
  if (!common.empty()) text += " of " + Printable(common);
  // Such as the scales of activations that became useless.
  const std::string_view last = std::string_view(names[0]).substr(names[0].rfind('.') + 1);
  const bool alike = std::all_of(names.begin(), names.end(), [&](std::string_view name) {
    return name.substr(name.rfind('.') + 1) == last;
  });
  if (alike && names.size() > 1) text += fmt::format(", each {}", Printable(std::string(last)));
  return text;
}

// Which experts the first ranks and the last one hold in the first layer that has any.
std::string ExpertMapText(const ReshardReport& report) {
  constexpr std::uint64_t kFirst = 2;
  constexpr std::size_t kMostRanges = 6;
  std::string text;
  const std::uint64_t ep = report.topology.ep;
  for (std::uint64_t rank = 0; rank < ep; ++rank) {
    if (rank >= kFirst && rank + 1 < ep) continue;
    if (rank > 0) text += rank > kFirst ? "; …; " : "; ";
    text +=
        fmt::format("EP rank {}: {}", rank,
                    RankListText(ExpertsOfRank(report, report.first_moe_layer, rank), kMostRanges));
  }
  return text + (SameMapInAllLayers(report)
                     ? " in every layer"
                     : fmt::format(" in layer {}, others differ", report.first_moe_layer));
}

std::string ReplicasText(const ReshardReport& report) {
  const ReplicaRange range = ReplicasOf(report);
  if (range.most == 1) return "";
  if (range.least == range.most) return fmt::format("{} of each expert", range.most);
  return fmt::format("{} to {} of an expert", range.least, range.most);
}

void TopologyLines(std::string& out, const ReshardReport& report) {
  const Topology& topology = report.topology;
  const auto line = [&out](std::string_view label, const std::string& text) {
    if (!text.empty()) ReportLine(out, label, text);
  };
  line("ranks", RanksText(topology));
  if (topology.pp > 1) line("layers", StagesText(topology));
  line("others", OtherSizesText(topology));
  if (topology.experts > 0) line("experts", ExpertsText(topology));
  if (!report.expert_map.empty()) {
    line("expert map", ExpertMapText(report));
    line("replicas", ReplicasText(report));
    AppendExpertLoadLines(out, report);
  }
  line("not cut", NamesText(report.replicated_modules));
  line("to BF16", NamesText(report.bf16_modules));
  if (report.recut_block) {
    line("blocks", fmt::format("{}×{} in every FP8 weight", report.recut_block->rows,
                               report.recut_block->cols));
  }
  line("left out", TensorsText(report.dropped));
}

std::string PercentText(std::uint64_t bytes, double mean) {
  if (!(mean > 0)) return "";
  const double percent = 100 * (static_cast<double>(bytes) / mean - 1);
  // No "-0.0 %".
  return fmt::format("{:+.1f} %", percent > -0.05 && percent < 0.05 ? 0.0 : percent);
}

void RankTable(std::string& out, const ReshardReport& report, double mean) {
  const Topology& topology = report.topology;
  const bool stages = topology.pp > 1;
  const bool cut_experts = topology.moe_tp > 1;
  const bool experts = topology.experts > 0;
  // A column is shown in all rows or in none.
  const std::string alignment(10, 'r');
  Table table(alignment);
  const auto add = [&](const std::array<std::string, 10>& cells) {
    std::vector<std::string> row = {cells[0]};
    if (stages) row.push_back(cells[1]);
    row.insert(row.end(), {cells[2], cells[3]});
    if (experts) row.push_back(cells[4]);
    if (experts && cut_experts) row.push_back(cells[5]);
    if (experts) row.push_back(cells[6]);
    row.insert(row.end(), {cells[7], cells[8], cells[9]});
    table.Add(std::move(row));
  };
  add({"rank", "stage", "TP", "DP", "EP", "expert TP", "experts", "parameters", "bytes",
       "to mean"});
  for (const RankReport& each : report.ranks) {
    add({std::to_string(each.rank.rank), std::to_string(each.rank.stage),
         std::to_string(each.rank.tp_rank), std::to_string(each.rank.dp_rank),
         std::to_string(each.rank.ep_rank), std::to_string(each.rank.moe_tp_rank),
         FormatCount(each.experts), FormatCount(each.parameters), FormatBytes(each.bytes),
         PercentText(each.bytes, mean)});
  }
  out += "\n" + table.Text("  ");
}

void ClassTable(std::string& out, const std::vector<RankClass>& classes, double mean) {
  constexpr std::size_t kMostRanges = 6;
  Table table("rrrrrl");
  table.Add({"ranks", "experts", "parameters", "bytes", "to mean", "which"});
  for (const RankClass& each : classes) {
    table.Add({FormatCount(each.ranks.size()), FormatCount(each.experts),
               FormatCount(each.parameters), FormatBytes(each.bytes), PercentText(each.bytes, mean),
               RankListText(each.ranks, kMostRanges)});
  }
  out += "\n" + table.Text("  ");
}

// Where hardly any two ranks are alike: what share of them holds at most so much.
void PercentileTable(std::string& out, const ReshardReport& report, double mean) {
  std::vector<std::uint64_t> bytes;
  bytes.reserve(report.ranks.size());
  for (const RankReport& each : report.ranks) bytes.push_back(each.bytes);
  std::sort(bytes.begin(), bytes.end());
  Table table("lrr");
  table.Add({"of the ranks", "bytes", "to mean"});
  const auto add = [&](const std::string& what, std::size_t percent) {
    const std::uint64_t value = bytes[percent * (bytes.size() - 1) / 100];
    table.Add({what, FormatBytes(value), PercentText(value, mean)});
  };
  add("smallest", 0);
  for (const std::size_t percent : std::array<std::size_t, 5>{10, 25, 50, 75, 90}) {
    add(fmt::format("{} % hold at most", percent), percent);
  }
  add("largest", 100);
  out += "\n" + table.Text("  ");
}

void BalanceLines(std::string& out, const ReshardReport& report) {
  if (report.ranks.empty()) return;
  const RankBalance balance = BalanceOf(report);
  const RankReport& largest = report.ranks[balance.largest];
  const RankReport& smallest = report.ranks[balance.smallest];
  if (largest.bytes == smallest.bytes) {
    ReportLine(out, "balance",
               report.ranks.size() == 1 ? "one rank holds all, " + FormatBytes(largest.bytes)
                                        : "even: every rank loads " + FormatBytes(largest.bytes));
  } else {
    ReportLine(out, "balance",
               fmt::format("largest {:.3f} × mean: rank {} loads {}, rank {} {}, the mean is {}",
                           balance.imbalance, largest.rank.rank, FormatBytes(largest.bytes),
                           smallest.rank.rank, FormatBytes(smallest.bytes),
                           FormatBytes(static_cast<std::uint64_t>(balance.mean_bytes))));
  }
  if (report.ranks.size() <= kMostListed) return RankTable(out, report, balance.mean_bytes);
  const std::vector<RankClass> classes = RankClasses(report);
  if (classes.size() <= kMostClasses) return ClassTable(out, classes, balance.mean_bytes);
  PercentileTable(out, report, balance.mean_bytes);
}

std::string TensorText(const ConversionReport& report) {
  std::string text = FormatCount(report.tensors) + " in all files";
  if (report.converted_tensors > 0) {
    text += fmt::format(", {} converted", FormatCount(report.converted_tensors));
  }
  return text;
}

std::string Planned(const ReshardRequest& request, const ReshardReport& report) {
  const ConversionReport& conversion = report.conversion;
  std::string out = PlannedFilesText(request.output, conversion) + "\n";
  TopologyLines(out, report);
  ReportLine(out, "tensors", TensorText(conversion));
  AppendPlanLines(out, conversion);
  BalanceLines(out, report);
  return out + ExpertLoadTable(report);
}

std::string Written(const ReshardRequest& request, const ReshardReport& report) {
  const ConversionReport& conversion = report.conversion;
  const bool complete = conversion.outcome != ConversionReport::Outcome::kPartDone;
  std::string out = fmt::format("{} {}: {}\n", complete ? "Cut into" : "Made a part of",
                                FormatCountOf(report.topology.world_size(), "rank"),
                                formats::ShownPath(request.output));
  TopologyLines(out, report);
  ReportLine(out, "tensors", TensorText(conversion));
  AppendRunLines(out, request.run, conversion);
  if (complete) {
    ReportLine(out, "layout", formats::ShownPath(request.output / "layout.json"));
    ReportLine(out, "manifest", ManifestText(request.output));
  }
  BalanceLines(out, report);
  return out + ExpertLoadTable(report);
}

}  // namespace

std::string_view ModuleKindName(convert::ModuleKind kind) {
  switch (kind) {
    case convert::ModuleKind::kEmbedding:
      return "embedding";
    case convert::ModuleKind::kHead:
      return "head";
    case convert::ModuleKind::kAttention:
      return "attention";
    case convert::ModuleKind::kDenseMlp:
      return "dense-mlp";
    case convert::ModuleKind::kSharedExpert:
      return "shared-experts";
    case convert::ModuleKind::kRoutedExpert:
      return "routed-experts";
    case convert::ModuleKind::kOther:
      break;
  }
  return "other";
}

std::string ReshardReportText(const ReshardRequest& request, const ReshardReport& report) {
  switch (report.conversion.outcome) {
    case ConversionReport::Outcome::kNothingToDo:
      return NothingToDoText(request.output, report.conversion);
    case ConversionReport::Outcome::kPlanned:
      return Planned(request, report);
    case ConversionReport::Outcome::kPartDone:
    case ConversionReport::Outcome::kConverted:
      break;
  }
  return Written(request, report);
}

std::string MergeReportText(const convert::JobRequest& request,
                            const convert::MergeReport& report) {
  const ConversionReport& conversion = report.conversion;
  if (conversion.outcome == ConversionReport::Outcome::kNothingToDo) {
    return NothingToDoText(request.output, conversion);
  }
  std::string out;
  if (conversion.outcome == ConversionReport::Outcome::kPlanned) {
    out = PlannedFilesText(request.output, conversion) + "\n";
    ReportLine(out, "tensors", FormatCount(conversion.tensors));
    AppendPlanLines(out, conversion);
  } else {
    out = fmt::format("Merged the ranks: {}\n", formats::ShownPath(request.output));
    ReportLine(out, "tensors", FormatCount(conversion.tensors));
    AppendRunLines(out, request.run, conversion);
    ReportLine(out, "manifest", ManifestText(request.output));
  }
  if (report.original) {
    ReportLine(out, "original", "every file is the original one, byte for byte");
    return out;
  }
  ReportLine(out, "original", "not in everything:");
  for (const std::string& difference : report.differences) {
    out += fmt::format("    {}\n", Printable(difference));
  }
  return out;
}

}  // namespace dsv3::cli
