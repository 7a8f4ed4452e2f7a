#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/inspect/inspection.h"
#include "convert/verify/compare.h"
#include "convert/verify/numeric.h"
#include "tests/convert/model/quantized_form_test.h"

// Forms that conversions do not read, in checks of values.
namespace dsv3::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class EachFormValuesTest : public EachFormTest {};
class QuantizedFormValuesTest : public QuantizedFormTest {};

INSTANTIATE_TEST_SUITE_P(Forms, EachFormValuesTest, ::testing::ValuesIn(kForms),
                         [](const auto& form) { return form.param.test_name; });

TEST_P(EachFormValuesTest, LooksAtValuesNameItAndJudgeNoCodes) {
  const std::size_t experts = WriteWith(GetParam());
  const bool decoded = IsDecoded(GetParam());
  convert::ProgressSink progress;
  const convert::StopToken stop;
  const convert::NumericReport report =
      convert::VerifyNumeric({.input = in(), .histogram = ""}, progress, stop);
  const auto expect_form = [&](const std::vector<convert::FormCount>& forms) {
    ASSERT_EQ(forms.size(), 1U);
    EXPECT_THAT(forms[0].name, HasSubstr(GetParam().name));
    EXPECT_EQ(forms[0].weights, experts);
    EXPECT_EQ(forms[0].decoded, decoded);
  };
  expect_form(report.forms);
  std::size_t unmeasured = 0;
  std::size_t scaled = 0;
  for (const convert::NumericTensor& tensor : report.tensors) {
    unmeasured += tensor.measured ? 0 : 1;
    scaled += tensor.scaled ? 1 : 0;
    if (!tensor.measured) {
      EXPECT_EQ(tensor.absmax, 0) << tensor.name;
    }
  }
  EXPECT_EQ(unmeasured, decoded ? 0 : experts);
  EXPECT_EQ(scaled, decoded ? experts : 0);

  convert::CompareRequest request;
  request.a = request.b = in();
  const convert::CompareReport compared = convert::CompareCheckpoints(request, progress, stop);
  expect_form(compared.forms_a);
  expect_form(compared.forms_b);
  EXPECT_TRUE(compared.verification.findings.empty());

  const convert::Inspection inspection = convert::Inspect(in());
  ASSERT_EQ(inspection.forms.size(), 1U);
  EXPECT_EQ(inspection.forms[0].weights, experts);
}

TEST_F(QuantizedFormValuesTest, CountsDecodedWeightsApartFromOthersOfTheirForm) {
  bool is_first = true;
  const std::size_t experts = ReplaceExperts([&](Module module) {
    // Groups of 32 divide the columns of the first one alone.
    if (std::exchange(is_first, false)) module.cols = 32;
    AddPackedInt4(module);
  });
  SetConfig("quantization_config", kPackedInt4);
  Write();
  convert::ProgressSink progress;
  const convert::StopToken stop;
  const convert::NumericReport report =
      convert::VerifyNumeric({.input = in(), .histogram = ""}, progress, stop);
  ASSERT_EQ(report.forms.size(), 2U);
  EXPECT_EQ(report.forms[0].name, report.forms[1].name);
  EXPECT_NE(report.forms[0].decoded, report.forms[1].decoded);
  EXPECT_EQ(report.forms[report.forms[0].decoded ? 0 : 1].weights, 1U);
  EXPECT_EQ(report.forms[0].weights + report.forms[1].weights, experts);
}

TEST_F(QuantizedFormValuesTest, NoToleranceCoversCodesThatDiffer) {
  ReplaceExperts(AddPackedInt4);
  SetConfig("quantization_config", kPackedInt4);
  Write();
  const auto packed =
      std::find_if(checkpoint_.tensors.begin(), checkpoint_.tensors.end(),
                   [](const TinyTensor& tensor) { return tensor.name.ends_with("weight_packed"); });
  ASSERT_NE(packed, checkpoint_.tensors.end());
  packed->bytes[0] = static_cast<char>(packed->bytes[0] ^ 1);
  checkpoint_.Write(out());
  convert::CompareRequest request;
  request.a = in();
  request.b = out();
  request.atol = 1e30;
  convert::ProgressSink progress;
  const convert::StopToken stop;
  const convert::CompareReport report = convert::CompareCheckpoints(request, progress, stop);
  ASSERT_EQ(report.verification.findings.size(), 1U);
  EXPECT_EQ(report.verification.findings[0].kind, "different-values");
  EXPECT_THAT(report.verification.findings[0].message,
              AllOf(HasSubstr("1 of "), HasSubstr("stored codes differ"),
                    HasSubstr("a form that is not decoded")));
  EXPECT_EQ(report.counts.different, 1U);
}

// Zeros show a file that was never written in codes, too.
TEST_F(QuantizedFormValuesTest, NumericFindsCodesThatAreAllZero) {
  ReplaceExperts(AddNvFp4);
  std::string name;
  for (TinyTensor& tensor : checkpoint_.tensors) {
    if (tensor.dtype != Dtype::kU8) continue;
    name = tensor.name;
    tensor.bytes.assign(tensor.bytes.size(), '\0');
    break;
  }
  Write();
  convert::ProgressSink progress;
  const convert::StopToken stop;
  const formats::Findings findings =
      convert::VerifyNumeric({.input = in(), .histogram = ""}, progress, stop)
          .verification.findings;
  EXPECT_TRUE(std::any_of(findings.begin(), findings.end(), [&](const formats::Finding& finding) {
    return finding.kind == "all-zero" && finding.tensor == name;
  }));
}

}  // namespace
}  // namespace dsv3::testing
