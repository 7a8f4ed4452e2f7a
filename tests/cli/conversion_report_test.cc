#include "cli/conversion_report.h"

#include <cstddef>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::cli {
namespace {

using convert::ConversionReport;
using ::testing::HasSubstr;
using ::testing::Not;

// The text of a dry run that plans `files` files.
std::string PlanOf(std::size_t files, std::size_t finished) {
  convert::JobRequest request;
  request.output = "out";
  ConversionReport report;
  report.outcome = ConversionReport::Outcome::kPlanned;
  report.fits = true;
  for (std::size_t i = 0; i < files; ++i) {
    convert::OutputFileReport file;
    file.name = "model-" + std::to_string(i);
    file.bytes = 1'000'000 * (i + 1);
    file.kept = i < finished;
    report.files.push_back(file);
  }
  return ConversionReportText(request, report);
}

TEST(ConversionReportTest, APlanListsTheFilesThatFitAScreen) {
  const std::string text = PlanOf(32, 1);
  EXPECT_THAT(text, HasSubstr("  model-31  "));
  EXPECT_THAT(text, HasSubstr("  finished\n"));
  EXPECT_THAT(text, Not(HasSubstr("--json lists them")));
}

TEST(ConversionReportTest, APlanOfMoreFilesSaysHowManyAndHowLargeTheyAre) {
  EXPECT_THAT(PlanOf(163, 0),
              HasSubstr("  files       163, 1.0 MB to 163.0 MB; --json lists them\n"));
  const std::string text = PlanOf(163, 12);
  EXPECT_THAT(text, HasSubstr("163.0 MB, 12 finished; --json lists them\n"));
  EXPECT_THAT(text, Not(HasSubstr("  model-31  ")));
}

}  // namespace
}  // namespace dsv3::cli
