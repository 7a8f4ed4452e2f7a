#pragma once

#include <string>
#include <string_view>

#include "convert/job.h"

namespace dsv3::cli {

// The report of a conversion for a person, several lines.
std::string ConversionReportText(const convert::ConversionRequest& request,
                                 const convert::ConversionReport& report);

// Warns of tensors in which something was counted, a handful by name.
void WarnOfCounts(const convert::ConversionReport& report, convert::ProgressSink& progress);

// The report as one JSON object with a line end; docs/json.md describes it.
std::string ConversionReportJson(const convert::ConversionRequest& request,
                                 const convert::ConversionReport& report, std::string_view tool);

}  // namespace dsv3::cli
