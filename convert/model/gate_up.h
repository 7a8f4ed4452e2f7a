#pragma once

#include <string>
#include <string_view>

namespace dsv3::convert {

// The module whose weight engines join with that of the module of a gate or up projection: that of
// up for gate ("….w3" for "….w1"), and the other way round. Empty for every other module. By name
// alone; thread-safe.
std::string GateUpPartner(std::string_view module);

}  // namespace dsv3::convert
