#pragma once

#include <string>

#include "cli/svg.h"
#include "convert/recipes/reshard_job.h"
#include "formats/json/json_writer.h"

// The load of the routed experts that each rank can expect, before and after --expert-load placed
// them. All functions give nothing where the option was not given.
namespace dsv3::cli {

// Lines for the head of the report, and a table, empty without a load.
void AppendExpertLoadLines(std::string& out, const convert::ReshardReport& report);
std::string ExpertLoadTable(const convert::ReshardReport& report);

// The member "expert_load"; null without a load.
void ExpertLoadMember(formats::JsonWriter& json, const convert::ReshardReport& report);

// A panel with two bars for each expert parallel rank of a stage, and its height, 0 without a load.
struct ExpertLoadPlace {
  double margin = 0;  // where headings begin
  double left = 0;    // of the bars
  double right = 0;
  double top = 0;
};
void DrawExpertLoad(Svg& svg, const convert::ReshardReport& report, const ExpertLoadPlace& place);
double ExpertLoadHeight(const convert::ReshardReport& report);

}  // namespace dsv3::cli
