#include "cli/quality_report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "cli/console.h"
#include "cli/json_members.h"
#include "cli/table.h"
#include "cli/units.h"
#include "quant/quality.h"

namespace dsv3::cli {

namespace {

using convert::TensorQuality;
using quant::Quality;

constexpr std::size_t kWorst = 10;

double Rmse(const Quality& q) {
  const std::uint64_t finite = q.elements - q.nonfinite;
  return finite == 0 ? 0 : std::sqrt(q.sum_squared_error / static_cast<double>(finite));
}

// Of the whole tensor: the norm of the error by the norm of the values. Nothing for all zeros.
std::optional<double> RelativeError(const Quality& q) {
  if (!(q.sum_squares > 0)) return std::nullopt;
  return std::sqrt(q.sum_squared_error / q.sum_squares);
}

// Nothing where there is no error, or no signal.
std::optional<double> SqnrDb(const Quality& q) {
  if (!(q.sum_squares > 0) || !(q.sum_squared_error > 0)) return std::nullopt;
  return 10 * std::log10(q.sum_squares / q.sum_squared_error);
}

double Share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

Quality Total(const std::vector<TensorQuality>& tensors) {
  Quality total;
  for (const TensorQuality& each : tensors) total.Add(each.quality);
  return total;
}

void Line(std::string& out, std::string_view label, const std::string& text) {
  out += fmt::format("  {:<11} {}\n", label, text);
}

std::string SqnrText(const Quality& q) {
  const std::optional<double> sqnr = SqnrDb(q);
  return sqnr ? fmt::format("{:.2f}", *sqnr) : "exact";
}

std::string RelativeText(const Quality& q) {
  return fmt::format("{:.3g}", RelativeError(q).value_or(0));
}

std::vector<const TensorQuality*> Sorted(const std::vector<TensorQuality>& tensors,
                                         double (*key)(const Quality&)) {
  std::vector<const TensorQuality*> order;
  order.reserve(tensors.size());
  for (const TensorQuality& each : tensors) order.push_back(&each);
  std::stable_sort(order.begin(), order.end(), [key](const auto* a, const auto* b) {
    return key(a->quality) < key(b->quality);
  });
  return order;
}

// Those with an error; all others are exact.
void WorstTable(std::string& out, const std::vector<TensorQuality>& tensors) {
  const auto order = Sorted(tensors, [](const Quality& q) {
    return SqnrDb(q).value_or(std::numeric_limits<double>::infinity());
  });
  Table table("rrrrrl");
  table.Add({"SQNR dB", "relative", "max error", "saturated", "to zero", "worst tensors"});
  std::size_t rows = 0;
  for (const TensorQuality* each : order) {
    const Quality& q = each->quality;
    if (!SqnrDb(q) || rows == kWorst) break;
    ++rows;
    table.Add({SqnrText(q), RelativeText(q), fmt::format("{:.3g}", q.max_abs_error),
               FormatCount(q.saturated), FormatCount(q.flushed_to_zero), Printable(each->tensor)});
  }
  if (rows != 0) out += "\n" + table.Text("  ", StdoutColumns());
}

// Tensors with blocks that are not as in the original.
void EditedTable(std::string& out, const std::vector<TensorQuality>& tensors) {
  const auto order = Sorted(
      tensors, [](const Quality& q) { return -static_cast<double>(q.blocks - q.kept_blocks); });
  const auto end = std::find_if(order.begin(), order.end(), [](const TensorQuality* each) {
    return each->quality.kept_blocks == each->quality.blocks;
  });
  const auto edited = static_cast<std::size_t>(end - order.begin());
  if (edited == 0) return;
  Table table("rrrl");
  table.Add({"new blocks", "of", "new codes",
             edited <= kWorst
                 ? "edited tensors"
                 : fmt::format("edited tensors, {} of {}", kWorst, FormatCount(edited))});
  for (std::size_t i = 0; i < std::min(edited, kWorst); ++i) {
    const Quality& q = order[i]->quality;
    table.Add({FormatCount(q.blocks - q.kept_blocks), FormatCount(q.blocks),
               FormatCount(q.changed_codes), Printable(order[i]->tensor)});
  }
  out += "\n" + table.Text("  ", StdoutColumns());
}

void NumberOrNull(formats::JsonWriter& json, std::string_view key, std::optional<double> value) {
  json.Key(key);
  if (value) {
    json.Double(*value);
  } else {
    json.Null();
  }
}

void Members(formats::JsonWriter& json, const Quality& q, bool like_original) {
  json.Uint("elements", q.elements);
  json.Uint("blocks", q.blocks);
  json.Double("max_abs_error", q.max_abs_error);
  json.Double("rmse", Rmse(q));
  NumberOrNull(json, "relative_error", RelativeError(q));
  NumberOrNull(json, "sqnr_db", SqnrDb(q));
  json.Uint("saturated", q.saturated);
  json.Uint("flushed_to_zero", q.flushed_to_zero);
  json.Uint("nonfinite", q.nonfinite);
  if (!like_original) return;
  json.Uint("requantized_blocks", q.blocks - q.kept_blocks);
  json.Uint("changed_codes", q.changed_codes);
  json.Double("changed_share", Share(q.changed_codes, q.elements));
}

}  // namespace

std::string QualityText(const std::vector<TensorQuality>& tensors, bool like_original) {
  if (tensors.empty()) return {};
  const Quality total = Total(tensors);
  std::string out;
  Line(out, "error",
       SqnrDb(total)
           ? fmt::format("SQNR {} dB, relative {}, RMSE {:.3g}, at most {:.3g}", SqnrText(total),
                         RelativeText(total), Rmse(total), total.max_abs_error)
           : "none: every weight is exact");
  Line(out, "values",
       fmt::format("{}: {} saturated, {} flushed to zero", FormatCount(total.elements),
                   FormatCount(total.saturated), FormatCount(total.flushed_to_zero)));
  if (like_original) {
    Line(out, "original",
         fmt::format("{} of {} blocks kept; {} of {} codes changed ({:.3g} %)",
                     FormatCount(total.kept_blocks), FormatCount(total.blocks),
                     FormatCount(total.changed_codes), FormatCount(total.elements),
                     100 * Share(total.changed_codes, total.elements)));
    EditedTable(out, tensors);
  }
  WorstTable(out, tensors);
  return out;
}

void QualityMember(formats::JsonWriter& json, const std::vector<TensorQuality>& tensors,
                   bool like_original) {
  json.Key("quality");
  if (tensors.empty()) return json.Null();
  json.BeginObject();
  json.BeginObject("total");
  Members(json, Total(tensors), like_original);
  json.EndObject();
  json.BeginArray("tensors");
  for (const TensorQuality& each : tensors) {
    json.BeginObject();
    StringMember(json, "tensor", each.tensor);
    Members(json, each.quality, like_original);
    json.EndObject();
  }
  json.EndArray();
  json.EndObject();
}

std::vector<convert::TensorCount> NonfiniteCounts(const std::vector<TensorQuality>& tensors) {
  std::vector<convert::TensorCount> counts;
  for (const TensorQuality& each : tensors) {
    if (each.quality.nonfinite != 0) counts.push_back({each.tensor, each.quality.nonfinite});
  }
  return counts;
}

}  // namespace dsv3::cli
