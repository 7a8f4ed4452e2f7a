#pragma once

#include <cstdint>
#include <string>

namespace dsv3::convert {

// How many weights of a checkpoint have a form other than those that conversions read, and whether
// their values were decoded; where not, only their bytes were looked at.
struct WeightForm {
  std::string name;  // "NVFP4 (ModelOpt: E2M1, two values a byte)"
  std::uint64_t weights = 0;
  bool decoded = false;
};

}  // namespace dsv3::convert
