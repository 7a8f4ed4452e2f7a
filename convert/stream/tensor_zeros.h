#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "convert/model/zero_runs.h"
#include "formats/dtype.h"
#include "formats/shape.h"

namespace dsv3::convert {

// The zeros of one weight matrix (IsWeightMatrix), whose bytes come in pieces: all that conversions
// warn of. Name and shape outlive it.
class TensorZeros {
 public:
  TensorZeros(std::string_view name, formats::Dtype dtype, const formats::Shape& shape)
      : name_(name), dtype_(dtype), shape_(&shape), runs_(LeastZeroRun(dtype)) {}

  // A piece that begins at byte `first`. Pieces come in any order, each byte once.
  void Add(std::uint64_t first, std::span<const std::byte> bytes);

  // Of all pieces: whether every value is zero, and how many runs are holes (KindOfZeroRun).
  bool all_zero() const { return !has_values_; }
  std::uint64_t Holes() const;

 private:
  std::string_view name_;
  formats::Dtype dtype_;
  const formats::Shape* shape_;
  bool has_values_ = false;
  ZeroRuns runs_;
};

}  // namespace dsv3::convert
