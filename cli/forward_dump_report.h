#pragma once

#include <string>
#include <utility>
#include <vector>

#include "convert/forward/comparison_verdict.h"
#include "convert/forward/dump_comparison.h"
#include "formats/json/json_writer.h"

// What dsv3-verify forward --against says.
namespace dsv3::cli {

// The NMSE that modules may have: --max-nmse, or what rounding gives in the dump's dtype.
double MaxNmseOf(const convert::DumpReport& report, const convert::ForwardLimits& limits);

// `all`: every unknown name.
void AppendDumpLines(const convert::DumpReport& report, bool all,
                     std::vector<std::pair<std::string, std::string>>& lines);
// A table of the first modules that differ, or of all modules.
std::string DumpText(const convert::DumpReport& report, double max_nmse, bool all);

// The member "against"; null without a report.
void DumpMember(formats::JsonWriter& json, const convert::DumpReport* report,
                const convert::ForwardLimits& limits);

}  // namespace dsv3::cli
