#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "convert/inspect/tensor_statistics.h"
#include "formats/dtype.h"

namespace dsv3::convert {

// Gathers ValueStatistics from a tensor's bytes, in pieces of whole elements. Formats of up to 16
// bits are counted by code and evaluated at the end, which is faster than evaluating each element.
class ValueCounter {
 public:
  explicit ValueCounter(formats::Dtype dtype);

  // Whether the values of a dtype are decoded; not for the 6-bit types.
  static bool Supports(formats::Dtype dtype);

  void Add(std::span<const std::byte> bytes);
  ValueStatistics Finish();

 private:
  void AddValue(double value, bool subnormal, std::uint64_t times);
  template <typename T>
  void AddFloats(std::span<const std::byte> bytes);
  template <typename T>
  void AddIntegers(std::span<const std::byte> bytes);

  formats::Dtype dtype_;
  std::vector<std::uint64_t> codes_;  // how often each code is there; empty for wide formats
  ValueStatistics statistics_;
  long double sum_ = 0;
  long double squares_ = 0;
};

}  // namespace dsv3::convert
