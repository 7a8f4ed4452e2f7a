#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cli/option_table.h"
#include "convert/forward/comparison_verdict.h"
#include "convert/forward/forward_comparison.h"
#include "formats/json/json_writer.h"

// What dsv3-verify forward says of two models.
namespace dsv3::cli {

// --max-nmse, --max-kl, --min-cosine and --min-top1.
void AppendLimitOptions(convert::ForwardLimits* limits, std::vector<Option>& table);

void AppendComparisonLines(const convert::ForwardComparisonReport& report,
                           std::vector<std::pair<std::string, std::string>>& lines);

// comparison, differences and first_difference; null, [] and null without a report.
void ComparisonMembers(formats::JsonWriter& json, const convert::ForwardComparisonReport* report);

}  // namespace dsv3::cli
