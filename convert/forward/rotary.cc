#include "convert/forward/rotary.h"

#include <cmath>

namespace dsv3::convert {

Rotary::Rotary(const ForwardConfig& config, std::uint64_t dims, std::size_t positions)
    : half_(static_cast<std::size_t>(dims / 2)), cos_(positions * half_), sin_(positions * half_) {
  const std::vector<double> frequencies = RotaryFrequencies(config, dims);
  for (std::size_t position = 0; position < positions; ++position) {
    for (std::size_t i = 0; i < half_; ++i) {
      const double angle = static_cast<double>(position) * frequencies[i];
      cos_[position * half_ + i] = static_cast<float>(std::cos(angle) * config.rotary_factor);
      sin_[position * half_ + i] = static_cast<float>(std::sin(angle) * config.rotary_factor);
    }
  }
}

void Rotary::Turn(std::size_t position, bool pairs, std::span<float> values) const {
  const float* const cos = cos_.data() + position * half_;
  const float* const sin = sin_.data() + position * half_;
  for (std::size_t i = 0; i < half_; ++i) {
    float& first = values[pairs ? 2 * i : i];
    float& second = values[pairs ? 2 * i + 1 : i + half_];
    const float a = first;
    const float b = second;
    first = a * cos[i] - b * sin[i];
    second = b * cos[i] + a * sin[i];
  }
}

}  // namespace dsv3::convert
