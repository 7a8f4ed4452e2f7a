#include <cstddef>
#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/bf16_to_fp8.h"
#include "tests/convert/support/checkpoint_checks.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/matrix_model.h"
#include "tests/support/sanitizers.h"
#include "tests/support/temp_dir.h"

// What bf16-to-fp8 writes in any form, of weights of any dtype, is read, checked and found right by
// every other command.
namespace dsv3::testing {
namespace {

using formats::Dtype;

// The dtypes share a test, so that each makes its source once for all forms.
class MatrixTest : public ::testing::TestWithParam<Dtype> {
 protected:
  void SetUp() override {
    MatrixCheckpoint(GetParam()).Write(dir_ / "in");
    ExpectWithoutFindings(dir_ / "in");
  }

  // Through BF16 and back with the original's scales.
  void ExpectRoundTrip(const std::filesystem::path& fp8) {
    const convert::ConversionReport back = Conversion(fp8, dir_ / "bf16").Run();
    EXPECT_EQ(Messages(back.warnings), "");
    ExpectEqualValues(fp8, dir_ / "bf16");
    ExpectEqualValues(dir_ / "bf16", fp8);
    ExpectWithoutFindings(dir_ / "bf16");
    ExpectTraced(dir_ / "bf16", fp8);

    Conversion(dir_ / "bf16", dir_ / "again", convert::Bf16ToFp8Conversion({.scales_from = fp8}))
        .Run();
    ExpectSameFiles(fp8, dir_ / "again");
  }

  TempDir dir_{MemoryDirectory()};
};

TEST_P(MatrixTest, EveryFormIsFoundRight) {
  const std::filesystem::path in = dir_ / "in";
  ExpectManifest(in);
  const std::vector<MatrixForm> forms = MatrixForms();
  for (std::size_t i = 0; i < forms.size(); i += Stride(3)) {
    const MatrixForm& form = forms[i];
    SCOPED_TRACE(form.name);
    const std::filesystem::path out = dir_ / "out";
    Conversion conversion(in, out, convert::Bf16ToFp8Conversion(form.options));
    const convert::ConversionReport report = conversion.Run();
    EXPECT_EQ(Messages(report.warnings), "");
    ExpectWithoutFindings(out);
    ExpectTraced(out, in);
    // Codes of normal numbers are a 16th of the value off at most, subnormal ones half of the
    // smallest; a power of two is up to twice the scale. BF16 scales and quotients add their own.
    const double subnormal = 2 * kMatrixLargest / 448 * 0x1p-10;
    const convert::CompareReport compared = Compare(in, out, 1.02 * subnormal, 0.0625 + 0.012);
    EXPECT_EQ(Messages(compared.verification.findings), "");
    EXPECT_EQ(compared.counts.identical_bytes + compared.counts.within_tolerance,
              compared.tensors.size());
    EXPECT_EQ(compared.counts.within_tolerance, report.converted_tensors);
    ExpectRoundTrip(out);
    ExpectSoundChecksums(out, dir_ / "copy");
    for (const char* const name : {"out", "bf16", "again"}) {
      std::filesystem::remove_all(dir_ / name);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, MatrixTest,
                         ::testing::Values(Dtype::kBF16, Dtype::kF16, Dtype::kF32),
                         [](const auto& test) {
                           return std::string(formats::DtypeName(test.param));
                         });

}  // namespace
}  // namespace dsv3::testing
