#include "formats/require_no_errors.h"

#include <string>

#include <gtest/gtest.h>

#include "formats/error.h"

namespace dsv3::formats {
namespace {

constexpr OtherErrors kOthers = {"fault was found", "faults were found"};

Finding Make(Severity severity, const char* kind, const std::string& name) {
  return {severity, kind, name + ".safetensors", name, "about " + name, false};
}

Error ErrorOf(const Findings& findings, const std::string& prefix = {}) {
  try {
    RequireNoErrors(findings, kOthers, prefix);
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::kInternal, "none");
}

TEST(RequireNoErrors, LetsWarningsThrough) {
  RequireNoErrors({}, kOthers);
  RequireNoErrors({Make(Severity::kWarning, "odd", "a")}, kOthers);
}

TEST(RequireNoErrors, ThrowsTheFirstErrorAndCountsTheOthers) {
  Findings findings = {Make(Severity::kWarning, "odd", "a"), Make(Severity::kError, "bad", "b")};
  const Error alone = ErrorOf(findings);
  EXPECT_EQ(alone.message(), "about b");
  EXPECT_EQ(alone.code(), ErrorCode::kBadInput);
  EXPECT_EQ(alone.place().file, "b.safetensors");
  EXPECT_EQ(alone.place().tensor, "b");
  findings.push_back(Make(Severity::kError, "shard-io-error", "c"));
  findings.push_back(Make(Severity::kWarning, "odd", "d"));
  EXPECT_EQ(ErrorOf(findings).message(), "about b (1 more fault was found)");
  findings.push_back(Make(Severity::kError, "bad", "e"));
  EXPECT_EQ(ErrorOf(findings, "DIR: ").message(), "DIR: about b (2 more faults were found)");
}

TEST(RequireNoErrors, TellsTheDisksErrorsApart) {
  EXPECT_EQ(ErrorOf({Make(Severity::kError, "shard-io-error", "a")}).code(), ErrorCode::kIo);
}

}  // namespace
}  // namespace dsv3::formats
