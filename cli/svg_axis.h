#pragma once

#include <cstddef>

namespace dsv3::cli {

// A step of 1, 2 or 5 times a power of ten that reaches `most` (above 0) in about `ticks` steps.
double NiceTick(double most, int ticks);

// Every how many things, `step` (above 0) pixels apart, a label of `width` pixels fits.
std::size_t LabelStep(double step, double width);

}  // namespace dsv3::cli
