#pragma once

#include "cli/svg.h"
#include "convert/recipes/reshard_job.h"

namespace dsv3::cli {

// Where the map of the experts is drawn, in pixels.
struct ExpertMapPlace {
  double margin = 0;  // where headings begin
  double left = 0;    // of the cells
  double right = 0;
  double top = 0;
};

// Draws which expert each expert parallel rank holds in which layer, one row a layer, or one for
// all where they are alike. Nothing without a map.
void DrawExpertMap(Svg& svg, const convert::ReshardReport& report, const ExpertMapPlace& place);

// How high that is; 0 without a map.
double ExpertMapHeight(const convert::ReshardReport& report);

}  // namespace dsv3::cli
