#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "convert/recipes/dequantize.h"
#include "convert/recipes/quantize_targets.h"
#include "quant/codec.h"
#include "tests/convert/recipes/quantize_test.h"

// What was quantised once and is quantised again: dequantize and quantize, twice.
namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using dsv3::testing::Conversion;
using dsv3::testing::TensorBytes;

class QuantizeAgainTest : public dsv3::testing::QuantizeTest,
                          public ::testing::WithParamInterface<std::size_t> {
 protected:
  void Dequantize(const fs::path& from, const fs::path& to) {
    Conversion(from, to, DequantizeConversion()).Run();
  }
};

// Root mean square, against that of `a`; BF16 values.
double RelativeDifference(const std::string& a, const std::string& b) {
  double of_difference = 0;
  double of_a = 0;
  for (std::size_t i = 0; i + 1 < a.size(); i += 2) {
    std::uint16_t bits[2];
    std::memcpy(&bits[0], a.data() + i, 2);
    std::memcpy(&bits[1], b.data() + i, 2);
    const double first = quant::DecodeBF16(bits[0]);
    const double second = quant::DecodeBF16(bits[1]);
    of_difference += (first - second) * (first - second);
    of_a += first * first;
  }
  return std::sqrt(of_difference / of_a);
}

std::string NameOf(const QuantizeTarget& target) {
  std::string name = fmt::format("{}_{}", QuantizeToName(target.to), QuantizeToolName(target.tool));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Targets, QuantizeAgainTest,
                         ::testing::Range<std::size_t>(0, QuantizeTargets().size()),
                         [](const auto& at) { return NameOf(QuantizeTargets()[at.param]); });

TEST_P(QuantizeAgainTest, LosesNoMoreThanItsFormulaSays) {
  const QuantizeTarget& target = QuantizeTargets()[GetParam()];
  const QuantizeOptions options{target.to, target.tool, std::nullopt};
  MakeSampleOfGroups();
  Run(bf16(), dir_ / "once", options);
  Dequantize(dir_ / "once", dir_ / "values");
  Run(dir_ / "values", dir_ / "twice", options);
  Dequantize(dir_ / "twice", dir_ / "values-again");
  const std::string weight = "model.layers.3.mlp.experts.1.up_proj.weight";
  const auto of = [&](const fs::path& directory) { return TensorBytes(directory, weight); };
  const double first = RelativeDifference(of(bf16()), of(dir_ / "values"));
  const double second = RelativeDifference(of(dir_ / "values"), of(dir_ / "values-again"));
  if (target.tool == QuantizeTool::kLlmCompressor &&
      (target.to == QuantizeTo::kInt8 || target.to == QuantizeTo::kInt4)) {
    // The largest code is not the largest value divided by the scale (127.5, 7.5), so each time the
    // scale becomes smaller; the values move by less than they did the first time.
    EXPECT_GT(second, 0);
    EXPECT_LT(second, first);
    return;
  }
  // Where a scale becomes smaller with the largest value, a few of the smallest values move; then
  // nothing does.
  EXPECT_LE(second, first / 1000);
  Run(dir_ / "values-again", dir_ / "thrice", options);
  EXPECT_TRUE(Bytes(dir_ / "twice") == Bytes(dir_ / "thrice"));
}

}  // namespace
}  // namespace dsv3::convert
