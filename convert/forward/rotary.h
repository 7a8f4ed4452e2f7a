#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "convert/model/forward_config.h"

// Rotary position embedding; an internal part of forward.h.
namespace dsv3::convert {

class Rotary {
 public:
  // Of `dims` dimensions, for positions below `positions`.
  Rotary(const ForwardConfig& config, std::uint64_t dims, std::size_t positions);

  // Turns `values`, one head's rotary dimensions. In pairs dimensions 2i and 2i + 1 turn together,
  // otherwise i and i + half; each stays where it is, which no product of two turned vectors shows.
  void Turn(std::size_t position, bool pairs, std::span<float> values) const;

 private:
  std::size_t half_;
  std::vector<float> cos_;  // [positions][half]
  std::vector<float> sin_;
};

}  // namespace dsv3::convert
