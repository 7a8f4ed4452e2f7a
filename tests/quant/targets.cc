#include "tests/quant/targets.h"

#include "tests/support/sanitizers.h"

namespace dsv3::quant {

std::vector<std::int64_t> TestedTargets() {
  std::vector<std::int64_t> targets = hwy::SupportedAndGeneratedTargets();
  if (dsv3::testing::kSanitized && targets.size() > 2) targets = {targets.front(), targets.back()};
  return targets;
}

}  // namespace dsv3::quant
