#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/targets.h>

namespace dsv3::quant {

// A test that runs with each instruction set that was compiled and that this machine has. Needs
// INSTANTIATE_TEST_SUITE_P with EveryTarget() and TargetName.
class TargetTest : public testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
};

// The widest first; under sanitizers the widest and the narrowest alone.
std::vector<std::int64_t> TestedTargets();

inline auto EveryTarget() { return testing::ValuesIn(TestedTargets()); }

inline std::string TargetName(const testing::TestParamInfo<std::int64_t>& target) {
  return hwy::TargetName(target.param);
}

}  // namespace dsv3::quant
