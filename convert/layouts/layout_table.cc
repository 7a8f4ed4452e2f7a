#include "convert/layouts/layout_table.h"

#include <algorithm>

namespace dsv3::convert {

bool IsOfModel(const LayoutTable& table, std::string_view name) {
  const auto is_in_name = [&](std::string_view text) { return name.find(text) != name.npos; };
  const auto begins_name = [&](std::string_view text) { return name.starts_with(text); };
  return std::any_of(table.model_prefixes.begin(), table.model_prefixes.end(), begins_name) &&
         std::none_of(table.ignored.begin(), table.ignored.end(), is_in_name);
}

bool IsStoredAsF32(const LayoutTable& table, std::string_view name) {
  return std::any_of(table.f32_names.begin(), table.f32_names.end(), [&](std::string_view text) {
    return name.find(text) != std::string_view::npos;
  });
}

}  // namespace dsv3::convert
