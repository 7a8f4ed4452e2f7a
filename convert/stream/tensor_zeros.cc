#include "convert/stream/tensor_zeros.h"

#include <algorithm>
#include <vector>

#include "convert/model/zero_weights.h"

namespace dsv3::convert {

void TensorZeros::Add(std::uint64_t first, std::span<const std::byte> bytes) {
  if (!has_values_) has_values_ = !AreZero(formats::DtypeBits(dtype_) / 8, bytes);
  runs_.Add(first, bytes);
}

std::uint64_t TensorZeros::Holes() const {
  const std::vector<ZeroRun> runs = runs_.Find();
  return static_cast<std::uint64_t>(std::count_if(runs.begin(), runs.end(), [&](const auto& run) {
    return KindOfZeroRun(name_, dtype_, *shape_, run) == ZeroRunKind::kHole;
  }));
}

}  // namespace dsv3::convert
