#pragma once

#include <string>

#include "convert/recipes/reshard_job.h"

namespace dsv3::cli {

// The balance of a deployment as a picture in SVG: what each rank loads, by kind of module; how far
// it is from the mean; which experts each expert parallel rank holds in which layer. It needs no
// other file, fits light and dark screens, and depends on nothing but the report. With very many
// ranks neighbours share a bar, with very many layers some of them are shown.
std::string BalanceSvg(const convert::ReshardReport& report);

}  // namespace dsv3::cli
