#include "convert/plan/plan_option.h"

#include "formats/json/json_writer.h"

namespace dsv3::convert {

PlanOption FlagOption(std::string_view name, bool value) {
  return {std::string(name), value ? "true" : "false"};
}

PlanOption NumberOption(std::string_view name, std::uint64_t value) {
  return {std::string(name), std::to_string(value)};
}

PlanOption TextOption(std::string_view name, std::string_view value) {
  PlanOption option{std::string(name), {}};
  formats::AppendJsonString(option.json, value);
  return option;
}

PlanOption TextsOption(std::string_view name, const std::vector<std::string>& values) {
  formats::JsonWriter json(0);
  json.Strings(values);
  return {std::string(name), json.Take()};
}

}  // namespace dsv3::convert
