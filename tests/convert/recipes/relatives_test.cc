#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/inspect/inspection.h"
#include "convert/model/expected_tensors.h"
#include "convert/recipes/dequantize.h"
#include "tests/convert/support/checkpoint_checks.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/support/temp_dir.h"

// The relatives of DeepSeek-V3, each as a small checkpoint that every command knows.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::ReshardOptions;
using convert::SamplePreset;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Relative {
  const char* test_name;
  SamplePreset preset;
  bool quantized;
  // Parameters of tensors that config.json does not predict: of a vision tower.
  std::uint64_t beside = 0;
};

void PrintTo(const Relative& relative, std::ostream* out) { *out << relative.test_name; }

class RelativesTest : public ::testing::TestWithParam<Relative> {
 protected:
  RelativesTest() { MakeSample(GetParam().preset, 1, in()); }

  fs::path in() const { return dir_ / "in"; }
  fs::path out() const { return dir_ / "out"; }

  // Cut into ranks, and merged again.
  void ExpectRoundTrip(const ReshardOptions& options) {
    fs::remove_all(dir_ / "ranks");
    fs::remove_all(dir_ / "again");
    RunReshard(in(), dir_ / "ranks", options);
    ExpectWithoutFindings(dir_ / "ranks");
    ExpectEqualValues(in(), dir_ / "ranks");
    RunMerge(dir_ / "ranks", dir_ / "again");
    ExpectSameFiles(in(), dir_ / "again");
  }

  static ReshardOptions Sizes(std::uint64_t tp, std::uint64_t ep) {
    ReshardOptions options;
    options.parallel.tp = tp;
    options.parallel.ep = ep;
    options.on_misaligned = convert::OnMisaligned::kReplicateModule;
    return options;
  }

  TempDir dir_;
};

INSTANTIATE_TEST_SUITE_P(All, RelativesTest,
                         ::testing::Values(Relative{"V2Lite", SamplePreset::kV2Lite, false},
                                           Relative{"Moonlight", SamplePreset::kMoonlight, false},
                                           Relative{"V32", SamplePreset::kV32, true},
                                           Relative{"Glm5", SamplePreset::kGlm5, true},
                                           Relative{"KimiInt4", SamplePreset::kKimiInt4, true},
                                           Relative{"KimiK25", SamplePreset::kKimiK25, true,
                                                    248'832},
                                           Relative{"Awq", SamplePreset::kAwq, true},
                                           Relative{"NvFp4", SamplePreset::kNvFp4, true},
                                           Relative{"V4", SamplePreset::kV4, true}),
                         [](const auto& relative) { return relative.param.test_name; });

TEST_P(RelativesTest, IsWhatItsConfigPredicts) { ExpectWithoutFindings(in()); }

TEST_P(RelativesTest, IsCountedInValues) {
  const convert::Inspection inspection = convert::Inspect(in());
  EXPECT_THAT(Messages(inspection.findings), IsEmpty());
  ASSERT_TRUE(inspection.config);
  std::uint64_t main = 0;
  std::uint64_t mtp = 0;
  for (const convert::ExpectedTensor& tensor : convert::ExpectedTensors(*inspection.config)) {
    (tensor.mtp ? mtp : main) += formats::NumElements(tensor.shape).value();
  }
  EXPECT_EQ(inspection.summary.parameters, main + GetParam().beside);
  EXPECT_EQ(inspection.summary.mtp_parameters, mtp);
}

TEST_P(RelativesTest, BecomesBF16) {
  Conversion conversion(in(), out(), convert::DequantizeConversion());
  if (!GetParam().quantized) {
    EXPECT_THAT(ErrorOf([&] { conversion.Run(); }).message(), HasSubstr("not a quantised"));
    return;
  }
  conversion.Run();
  ExpectWithoutFindings(out());
}

TEST_P(RelativesTest, IsCutBetweenRanksAndPutTogetherAgain) {
  ExpectRoundTrip(Sizes(2, 1));
  ExpectRoundTrip(Sizes(2, 2));
  ExpectRoundTrip(Sizes(2, 4));
}

}  // namespace
}  // namespace dsv3::testing
