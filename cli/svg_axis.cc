#include "cli/svg_axis.h"

#include <array>
#include <cmath>

namespace dsv3::cli {

double NiceTick(double most, int ticks) {
  if (!(most > 0)) return 1;
  const double rough = most / ticks;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

std::size_t LabelStep(double step, double width) {
  // Powers of two first: ranks come in such groups.
  constexpr std::array<std::size_t, 8> kSteps = {1, 2, 4, 8, 16, 20, 32, 40};
  for (const std::size_t every : kSteps) {
    if (static_cast<double>(every) * step >= width) return every;
  }
  return 80;
}

}  // namespace dsv3::cli
