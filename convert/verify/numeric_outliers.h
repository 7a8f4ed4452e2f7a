#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// Tensors whose magnitude is far from the same tensor of other layers; an internal part of
// numeric.h.
namespace dsv3::convert {

struct TensorMagnitude {
  std::uint32_t tensor = 0;  // position in the catalog
  std::string pattern;       // of its name (NamePattern)
  double rms = 0;            // positive and finite, both
  double absmax = 0;
};

// A tensor apart, with what is usual in its group.
struct Outlier {
  std::uint32_t tensor = 0;
  std::string pattern;
  std::size_t group_size = 0;
  bool by_rms = false;  // else by absmax alone
  double value = 0;     // rms or absmax
  double median = 0;    // of the same in the group
};

// Groups of three tensors or more are judged. A tensor is an outlier when log2 of its rms differs
// from the group's median by more than 3 (a factor of 8) and by more than 8 standard deviations, as
// estimated by 1.4826 times the median absolute deviation; or log2 of its absmax by more than 5 (a
// factor of 32) and 8 deviations. Ordered by position.
std::vector<Outlier> FindOutliers(std::vector<TensorMagnitude> magnitudes);

}  // namespace dsv3::convert
