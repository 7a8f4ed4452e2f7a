#include "convert/layouts/layout_table.h"

#include <algorithm>

namespace dsv3::convert {

bool IsStoredAsF32(const LayoutTable& table, std::string_view name) {
  return std::any_of(table.f32_names.begin(), table.f32_names.end(), [&](std::string_view text) {
    return name.find(text) != std::string_view::npos;
  });
}

}  // namespace dsv3::convert
