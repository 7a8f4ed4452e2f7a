#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cli/option_table.h"
#include "convert/forward/comparison_verdict.h"
#include "convert/forward/forward.h"
#include "convert/forward/forward_comparison.h"
#include "formats/json/json_writer.h"

// What dsv3-verify forward says of two models.
namespace dsv3::cli {

// --max-nmse, --max-kl, --min-cosine and --min-top1.
void AppendLimitOptions(convert::ForwardLimits* limits, std::vector<Option>& table);

void AppendComparisonLines(const convert::ForwardComparisonReport& report,
                           std::vector<std::pair<std::string, std::string>>& lines);

// "4: TP 2, EP 4, DP 2, PP 1" of the ranks that ran.
void AppendRankLines(const convert::ForwardReport& report,
                     std::vector<std::pair<std::string, std::string>>& lines);
// ranks: those of MODEL, or where it has none, those of OTHER; null without ranks.
void RanksMember(formats::JsonWriter& json, const convert::ForwardReport& report);

// comparison, differences and first_difference.
void ComparisonMembers(formats::JsonWriter& json, const convert::ForwardReport& report);

}  // namespace dsv3::cli
