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
  // Ranks come in groups of powers of two; 20 and 40 keep labels dense where these do not.
  constexpr std::array<std::size_t, 8> kSteps = {1, 2, 4, 8, 16, 20, 32, 40};
  for (const std::size_t every : kSteps) {
    if (static_cast<double>(every) * step >= width) return every;
  }
  std::size_t every = 80;
  while (static_cast<double>(every) * step < width) every *= 2;
  return every;
}

}  // namespace dsv3::cli
