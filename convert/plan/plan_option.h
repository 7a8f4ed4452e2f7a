#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3::convert {

// An option that decides output bytes, as the manifest records it; `json` is a JSON value.
struct PlanOption {
  std::string name;
  std::string json;
};

PlanOption FlagOption(std::string_view name, bool value);
PlanOption NumberOption(std::string_view name, std::uint64_t value);
PlanOption TextOption(std::string_view name, std::string_view value);
PlanOption TextsOption(std::string_view name, const std::vector<std::string>& values);

}  // namespace dsv3::convert
