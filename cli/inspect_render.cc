#include "cli/inspect_render.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "cli/inspect_gguf.h"
#include "cli/inspect_lines.h"
#include "cli/table.h"
#include "cli/units.h"
#include "formats/message_text.h"

namespace dsv3::cli {
namespace {

using convert::Inspection;
using convert::ModelConfig;
using convert::Summary;
using convert::ValueStatistics;

std::string FormatBinaryBytes(std::uint64_t bytes) {
  constexpr std::array<const char*, 4> kUnits = {"KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string ModelLine(const ModelConfig& c) {
  std::string text = c.model_type.empty() ? "unnamed model_type" : Printable(c.model_type);
  if (c.num_hidden_layers > 0) text += ", " + FormatCountOf(c.num_hidden_layers, "layer");
  if (c.num_nextn_predict_layers > 0) text += fmt::format(" + {} MTP", c.num_nextn_predict_layers);
  if (c.n_routed_experts > 0) {
    text += fmt::format(", {} experts, {} per token", c.n_routed_experts, c.num_experts_per_tok);
  }
  if (c.quantization) {
    text += ", " + (c.quantization->quant_method.empty() ? "quantised"
                                                         : Printable(c.quantization->quant_method));
    if (const auto& block = c.quantization->weight_block_size) {
      text += fmt::format(" in {}×{} blocks", block->rows, block->cols);
    }
    if (!c.quantization->scale_fmt.empty()) {
      text += ", scales " + Printable(c.quantization->scale_fmt);
    }
  }
  return text;
}

// The deployment, and the bytes that each of its ranks loads.
void AddRanks(const formats::RankLayout& layout, const Summary& s, Table& table) {
  const formats::RankLayout::Sizes& sizes = layout.sizes;
  std::string ranks =
      fmt::format("{} = TP {} × DP {}", FormatCount(sizes.world_size), sizes.tp, sizes.dp);
  if (sizes.pp > 1) ranks += fmt::format(" × PP {}", sizes.pp);
  if (sizes.redundant_experts > 0) {
    ranks += fmt::format(", experts and {} redundant ones over EP {}",
                         FormatCount(sizes.redundant_experts), sizes.ep);
  } else if (sizes.ep > 1) {
    ranks += fmt::format(", experts over EP {}", sizes.ep);
  }
  table.Add({"ranks", ranks});
  const auto by_bytes = [](const formats::LayoutRank& a, const formats::LayoutRank& b) {
    return a.bytes < b.bytes;
  };
  const auto least = std::min_element(layout.ranks.begin(), layout.ranks.end(), by_bytes);
  const auto most = std::max_element(layout.ranks.begin(), layout.ranks.end(), by_bytes);
  table.Add(
      {"each loads", least->bytes == most->bytes
                         ? FormatBytes(most->bytes)
                         : fmt::format("{} (rank {}) to {} (rank {})", FormatBytes(least->bytes),
                                       least->rank, FormatBytes(most->bytes), most->rank)});
  table.Add({"files", fmt::format("{} in the format {}, {}", FormatCount(s.files),
                                  Printable(layout.format), FormatBytes(s.file_bytes))});
}

std::string Totals(const Inspection& inspection, std::size_t columns) {
  const Summary& s = inspection.summary;
  Table table("ll");
  if (inspection.config) table.Add({"model", ModelLine(*inspection.config)});
  for (const convert::FormCount& form : inspection.forms) {
    table.Add({"form",
               fmt::format("{}: {}", Printable(form.name), FormatCountOf(form.weights, "weight"))});
  }
  std::string parameters = FormatParameters(s.parameters);
  if (s.activated_parameters) {
    parameters +=
        fmt::format(", {} activated per token", FormatParameters(*s.activated_parameters));
  }
  parameters += fmt::format(" ({}", FormatCount(s.parameters));
  if (s.activated_parameters) parameters += "; " + FormatCount(*s.activated_parameters);
  table.Add({"parameters", parameters + ")"});
  if (s.mtp_tensors > 0) {
    table.Add({"MTP apart", fmt::format("{} ({}), {} in {}", FormatParameters(s.mtp_parameters),
                                        FormatCount(s.mtp_parameters), FormatBytes(s.mtp_bytes),
                                        FormatCountOf(s.mtp_tensors, "tensor"))});
  }
  std::string bytes = FormatBytes(s.tensor_bytes);
  if (s.tensor_bytes >= 1024) bytes += fmt::format(" ({})", FormatBinaryBytes(s.tensor_bytes));
  if (inspection.ranks) {
    AddRanks(*inspection.ranks, s, table);
    table.Add({"tensors", fmt::format("{}, each counted once, {}", FormatCount(s.tensors), bytes)});
  } else {
    table.Add({"tensors", fmt::format("{} in {}, {}", FormatCount(s.tensors),
                                      FormatCountOf(s.files, "file"), bytes)});
  }
  if (s.scales > 0) {
    table.Add({"of these", fmt::format("{} ({} values, {}), not counted as parameters",
                                       FormatCountOf(s.scales, "scale"),
                                       FormatCount(s.scale_elements), FormatBytes(s.scale_bytes))});
  }
  std::string dtypes;
  for (const auto& total : s.dtypes) {
    if (!dtypes.empty()) dtypes += ", ";
    dtypes += fmt::format("{} {}", formats::DtypeName(total.dtype), FormatBytes(total.bytes));
    if (total.packed_bytes != 0 && total.bytes != 0) {
      dtypes += fmt::format(" (packed {:.1f} %)", 100 * static_cast<double>(total.packed_bytes) /
                                                      static_cast<double>(total.bytes));
    }
  }
  table.Add({"dtypes", dtypes});
  return table.Wrapped("  ", columns);
}

std::string FindingsText(const formats::Findings& findings) {
  // A checkpoint that lacks a layer has thousands of the same kind.
  constexpr std::size_t kShown = 5;
  std::map<std::string, std::size_t> counts;
  std::string text;
  for (const auto& finding : findings) {
    if (++counts[finding.kind] > kShown) continue;
    text += fmt::format("  {}: {}\n",
                        finding.severity == formats::Severity::kError ? "error" : "warning",
                        Printable(finding.message));
  }
  for (const auto& [kind, count] : counts) {
    if (count > kShown) text += fmt::format("  and {} more of {}\n", count - kShown, kind);
  }
  return text;
}

std::string Number(double value) { return fmt::format("{:.6g}", value); }

void AddStatistics(Table& table, const char* title, const ValueStatistics& s) {
  table.Add({title, FormatCountOf(s.values, "value")});
  if (s.finite > 0) {
    table.Add({"  range", fmt::format("{} to {}, largest magnitude {}", Number(s.min),
                                      Number(s.max), Number(s.absmax))});
    table.Add({"  mean, RMS", fmt::format("{}, {}", Number(s.mean), Number(s.rms))});
  }
  table.Add({"  counts", fmt::format("{} zero, {} subnormal, {} infinite, {} NaN",
                                     FormatCount(s.zeros), FormatCount(s.subnormals),
                                     FormatCount(s.infinities), FormatCount(s.nans))});
}

Table TensorTable(const std::vector<InspectLine>& lines, bool with_parameters) {
  Table table(with_parameters ? "lllrrr" : "lllrr");
  const auto add = [&](std::vector<std::string> cells, std::string parameters, std::string bytes) {
    if (with_parameters) cells.push_back(std::move(parameters));
    cells.push_back(std::move(bytes));
    table.Add(std::move(cells));
  };
  add({"tensor", "dtype", "shape", "count"}, "parameters", "bytes");
  for (const InspectLine& line : lines) {
    add({(line.indented ? "  " : "") + line.name, line.dtype, line.shape,
         line.tensors > 1 ? "×" + FormatCount(line.tensors) : ""},
        FormatParameters(line.parameters), FormatBytes(line.bytes));
  }
  return table;
}

}  // namespace

std::string InspectionText(const Inspection& inspection, std::size_t columns) {
  if (inspection.gguf) return GgufText(inspection, columns);
  using Form = formats::CheckpointFiles::Form;
  std::string text = formats::ShownPath(inspection.path);
  if (inspection.ranks) {
    text += " (rank shards)";
  } else if (inspection.form == Form::kUnindexed) {
    text += " (shards without an index)";
  }
  text += "\n" + Totals(inspection, columns);
  if (!inspection.findings.empty()) text += "\n" + FindingsText(inspection.findings);
  const std::vector<InspectLine> lines = InspectLines(inspection.summary.root);
  const Table whole = TensorTable(lines, true);
  // Shapes say the parameters, too; names that are cut further say nothing.
  return text + "\n" +
         (whole.Fits("", columns, Table::kFewestColumns) ? whole : TensorTable(lines, false))
             .Text("", columns);
}

std::string TensorText(const Inspection& inspection, const MeasuredTensor& measured) {
  const convert::TensorStatistics& statistics = measured.statistics;
  const convert::InspectedTensor tensor = convert::InspectedTensorOf(inspection, measured.position);
  Table table("ll");
  table.Add({inspection.gguf ? "type" : "dtype", tensor.type});
  table.Add({"shape", fmt::format("{}, {}", formats::ShapeToString(tensor.shape),
                                  FormatCountOf(formats::NumElements(tensor.shape).value_or(0),
                                                "element"))});
  table.Add({"file", Printable(tensor.file)});
  table.Add({"place", fmt::format("bytes [{}, {}) of the file, {}", tensor.extent.offset,
                                  tensor.extent.offset + tensor.extent.length,
                                  FormatBytes(tensor.extent.length))});
  if (!statistics.scale.empty()) table.Add({"scale", Printable(statistics.scale)});
  if (statistics.stored) {
    const bool raw = tensor.type == formats::DtypeName(formats::Dtype::kF8E4M3);
    AddStatistics(table, raw ? "codes, unscaled" : "values", *statistics.stored);
  }
  if (statistics.dequantized) AddStatistics(table, "dequantised", *statistics.dequantized);
  if (!statistics.note.empty()) table.Add({"note", Printable(statistics.note)});
  return Printable(tensor.name) + "\n" + table.Text("  ");
}

}  // namespace dsv3::cli
