#include "cli/forward_dump_report.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/console.h"
#include "cli/json_members.h"
#include "cli/table.h"
#include "cli/units.h"
#include "cli/verify_report.h"
#include "formats/dtype.h"

namespace dsv3::cli {
namespace {

using convert::DumpedModule;
using convert::DumpReport;

constexpr std::size_t kFirstNames = 5;

void WriteModule(formats::JsonWriter& json, const DumpedModule& module) {
  json.BeginObject();
  StringMember(json, "module", module.module);
  UintOrNullMember(json, "layer", module.layer);
  json.Double("nmse", module.nmse);
  json.Double("cosine", module.cosine);
  json.Double("max_abs", module.max_abs);
  json.EndObject();
}

}  // namespace

double MaxNmseOf(const DumpReport& report, const convert::ForwardLimits& limits) {
  return limits.max_nmse.value_or(convert::DefaultMaxNmse(report.dtype));
}

void AppendDumpLines(const DumpReport& report, bool all,
                     std::vector<std::pair<std::string, std::string>>& lines) {
  lines.emplace_back("compared",
                     fmt::format("{} in {}", FormatCountOf(report.modules.size(), "module"),
                                 formats::DtypeName(report.dtype)));
  if (report.unknown.empty()) return;
  const std::size_t shown =
      all ? report.unknown.size() : std::min(kFirstNames, report.unknown.size());
  const std::vector<std::string> names(report.unknown.begin(),
                                       report.unknown.begin() + static_cast<std::ptrdiff_t>(shown));
  std::string text = Printable(fmt::format("{}", fmt::join(names, ", ")));
  if (shown < report.unknown.size()) {
    text += fmt::format(" and {} more", FormatCount(report.unknown.size() - shown));
  }
  lines.emplace_back("unknown",
                     FormatCountOf(report.unknown.size(), "name") + " of the dump: " + text);
}

std::string DumpText(const DumpReport& report, double max_nmse, bool all) {
  Table table("lrrr");
  table.Add({"module", "NMSE", "cosine", "largest difference"});
  std::size_t rows = 0;
  std::size_t left_out = 0;
  for (const DumpedModule& module : report.modules) {
    if (!all && !(module.nmse > max_nmse)) continue;
    if (!all && rows == kFirstRows) {
      ++left_out;
      continue;
    }
    ++rows;
    table.Add({module.module, fmt::format("{:.3g}", module.nmse),
               fmt::format("{:.9f}", module.cosine), fmt::format("{:.3g}", module.max_abs)});
  }
  return rows == 0 ? "" : table.Text("") + MoreLine(left_out);
}

void DumpMember(formats::JsonWriter& json, const DumpReport* report,
                const convert::ForwardLimits& limits) {
  json.Key("against");
  if (report == nullptr) {
    json.Null();
    return;
  }
  const double max_nmse = MaxNmseOf(*report, limits);
  const auto differs = [&](const DumpedModule& module) { return module.nmse > max_nmse; };
  const std::vector<DumpedModule>& modules = report->modules;
  const auto first = std::find_if(modules.begin(), modules.end(), differs);
  json.BeginObject();
  StringMember(json, "file", report->file);
  StringMember(json, "dtype", formats::DtypeName(report->dtype));
  json.Double("max_nmse", max_nmse);
  json.Uint("compared", modules.size());
  json.Uint("differing",
            static_cast<std::uint64_t>(std::count_if(modules.begin(), modules.end(), differs)));
  json.Key("first_difference");
  if (first == modules.end()) {
    json.Null();
  } else {
    WriteModule(json, *first);
  }
  json.BeginArray("modules");
  for (const DumpedModule& module : modules) WriteModule(json, module);
  json.EndArray();
  StringsMember(json, "unknown", report->unknown);
  json.EndObject();
}

}  // namespace dsv3::cli
