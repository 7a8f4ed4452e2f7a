#pragma once

#include <string_view>

#include "convert/open/open_model.h"

namespace dsv3::convert {

// Throws Error (kBadInput) for a layer behind those that the config counts: who reads `layout` by
// the config would not find it.
void RequireCountedLayers(const OpenedModel& model, std::string_view layout);

}  // namespace dsv3::convert
