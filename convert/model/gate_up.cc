#include "convert/model/gate_up.h"

#include <utility>

namespace dsv3::convert {

std::string GateUpPartner(std::string_view module) {
  constexpr std::pair<std::string_view, std::string_view> kPairs[] = {{"gate_proj", "up_proj"},
                                                                      {"w1", "w3"}};
  const std::size_t dot = module.rfind('.');
  const std::size_t begin = dot == std::string_view::npos ? 0 : dot + 1;
  const std::string_view last = module.substr(begin);
  for (const auto& [gate, up] : kPairs) {
    if (last == gate) return std::string(module.substr(0, begin)).append(up);
    if (last == up) return std::string(module.substr(0, begin)).append(gate);
  }
  return "";
}

}  // namespace dsv3::convert
