#pragma once

#include <string>
#include <string_view>

#include "convert/recipes/reshard_job.h"

namespace dsv3::cli {

// "embedding", "head", "attention", "dense-mlp", "shared-experts", "routed-experts", "other": kinds
// of modules in reports.
std::string_view ModuleKindName(convert::ModuleKind kind);

// The report of dsv3-reshard for a person: the files that were written, the ranks, and how evenly
// they are loaded.
std::string ReshardReportText(const convert::ReshardRequest& request,
                              const convert::ReshardReport& report);
std::string MergeReportText(const convert::JobRequest& request, const convert::MergeReport& report);

// The same as one JSON object with a line end; docs/json.md describes them.
std::string ReshardReportJson(const convert::ReshardRequest& request,
                              const convert::ReshardReport& report, std::string_view tool);
std::string MergeReportJson(const convert::JobRequest& request, const convert::MergeReport& report,
                            std::string_view tool);

}  // namespace dsv3::cli
