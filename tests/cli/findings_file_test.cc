#include <chrono>
#include <cstddef>
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/junit.h"
#include "cli/sarif.h"
#include "formats/error.h"
#include "tests/support/temp_dir.h"

// The forms of findings for other programs.
namespace dsv3::cli {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

formats::Finding Finding(formats::Severity severity, std::string kind, std::string file,
                         std::string tensor, std::string message) {
  formats::Finding finding;
  finding.severity = severity;
  finding.kind = std::move(kind);
  finding.file = std::move(file);
  finding.tensor = std::move(tensor);
  finding.message = std::move(message);
  return finding;
}

constexpr auto kError = formats::Severity::kError;
constexpr auto kWarning = formats::Severity::kWarning;

class FindingsFileTest : public ::testing::Test {
 protected:
  FindingsFileTest() {
    verification_.check = "structure";
    verification_.files = {"a b.safetensors", "config.json", "fine"};
    verification_.findings = {
        Finding(kError, "missing-tensor", "a b.safetensors", "w<1>", "w<1> & more"),
        Finding(kError, "wrong-dtype", "a b.safetensors", "v", "second"),
        Finding(kWarning, "unexpected-tensor", "config.json", "", "note"),
        Finding(kError, "no-index", "", "", "nothing")};
    document_.tool = "dsv3-verify";
    document_.command = "checksum check";
    document_.directory = "/data/my model";
    check_.command = "checksum check";
    check_.passes = false;
    check_.begin = std::chrono::system_clock::time_point(std::chrono::seconds(1'795'928'388));
    check_.seconds = 2.5;
  }

  FindingsDocument document_;
  CheckRecord& check_ = document_.checks.emplace_back();
  convert::Verification& verification_ = check_.verification;
};

TEST_F(FindingsFileTest, JUnitHasACaseForEachFileAndOneForTheRest) {
  EXPECT_EQ(JUnitText(document_),
            R"xml(<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="dsv3-verify" tests="4" failures="2" errors="0" skipped="0" time="2.500">
  <testsuite name="checksum check my model" tests="4" failures="2" errors="0" skipped="0" time="2.500" timestamp="2026-11-29T04:59:48">
    <testcase name="a b.safetensors" classname="dsv3-verify.checksum-check" time="0">
      <failure message="2 findings, first: w&lt;1&gt; &amp; more" type="several">missing-tensor: w&lt;1&gt;: w&lt;1&gt; &amp; more&#10;wrong-dtype: v: second&#10;</failure>
    </testcase>
    <testcase name="config.json" classname="dsv3-verify.checksum-check" time="0">
      <system-out>unexpected-tensor: note&#10;</system-out>
    </testcase>
    <testcase name="fine" classname="dsv3-verify.checksum-check" time="0"/>
    <testcase name="(checkpoint)" classname="dsv3-verify.checksum-check" time="2.500">
      <failure message="nothing" type="no-index">no-index: nothing&#10;</failure>
    </testcase>
  </testsuite>
</testsuites>
)xml");
}

TEST_F(FindingsFileTest, JUnitCountsWarningsWhereTheyFail) {
  check_.warnings_fail = true;
  const std::string text = JUnitText(document_);
  EXPECT_THAT(text, HasSubstr("tests=\"4\" failures=\"3\""));
  EXPECT_THAT(text, Not(HasSubstr("system-out")));
}

TEST_F(FindingsFileTest, JUnitOfACheckWithoutFilesHasOneCase) {
  verification_ = {};
  EXPECT_THAT(JUnitText(document_), HasSubstr("tests=\"1\" failures=\"0\""));
}

TEST_F(FindingsFileTest, JUnitHasAnErrorWhereACheckCouldNotRun) {
  verification_ = {};
  check_.error = Error(ErrorCode::kBadInput, "no <config>");
  CheckRecord skipped;
  skipped.command = "provenance";
  skipped.skipped = "no manifest";
  document_.checks.push_back(skipped);
  const std::string text = JUnitText(document_);
  EXPECT_THAT(text, HasSubstr("<testsuites name=\"dsv3-verify\" tests=\"2\" failures=\"0\" "
                              "errors=\"1\" skipped=\"1\" time=\"2.500\">"));
  EXPECT_THAT(text, HasSubstr("<error message=\"no &lt;config&gt;\" type=\"bad-input\"/>"));
  EXPECT_THAT(text, HasSubstr("<skipped message=\"no manifest\"/>"));
  const json sarif = json::parse(SarifText(document_));
  const json& invocations = sarif["runs"][0]["invocations"];
  ASSERT_EQ(invocations.size(), 1U) << "what does not apply was not invoked";
  EXPECT_EQ(invocations[0]["executionSuccessful"], false);
  EXPECT_EQ(invocations[0]["exitCode"], 3);
  EXPECT_EQ(invocations[0]["startTimeUtc"], "2026-11-29T04:59:48Z");
  EXPECT_EQ(invocations[0]["endTimeUtc"], "2026-11-29T04:59:50Z");
  EXPECT_EQ(invocations[0]["toolExecutionNotifications"][0]["message"]["text"], "no <config>");
}

// Code scanning maps files by their paths from the top of the repository.
TEST_F(FindingsFileTest, SarifNamesFilesFromTheTopOfTheRepository) {
  const dsv3::testing::TempDir dir;
  std::filesystem::create_directories(dir / "repo/models/v 3");
  std::filesystem::create_directories(dir / "repo/.git");
  document_.directory = dir / "repo/models/v 3";
  const json sarif = json::parse(SarifText(document_));
  const json& run = sarif["runs"][0];
  const auto uri = [&](std::size_t result) {
    return run["results"][result]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
  };
  EXPECT_EQ(uri(0), "models/v%203/a%20b.safetensors");
  EXPECT_EQ(uri(3), "models/v%203");
  const std::string root = "file://" + UriPath((dir / "repo").string()) + "/";
  EXPECT_EQ(run["originalUriBaseIds"]["SRCROOT"]["uri"], root);
  EXPECT_EQ(run["originalUriBaseIds"]["CHECKPOINT"]["uri"], root + "models/v%203/");
  EXPECT_EQ(run["invocations"][0]["workingDirectory"]["uri"], root);
}

TEST(XmlTextTest, EscapesWhatXmlHasNoFormFor) {
  EXPECT_EQ(XmlText("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;'");
  EXPECT_EQ(XmlText("a\tb\nc\rd"), "a&#9;b&#10;c&#13;d");
  EXPECT_EQ(XmlText(std::string("\0\x1b[2J\x7f", 6)), "\\x00\\x1b[2J\x7f");
  EXPECT_EQ(XmlText("\xff\xc3\x28\xed\xa0\x80"), "\\xff\\xc3(\\xed\\xa0\\x80");
  EXPECT_EQ(XmlText("ä€😀"), "ä€😀");
  EXPECT_EQ(XmlText("\xef\xbf\xbf\xef\xbf\xbe\xef\xbf\xbd"), "\\uffff\\ufffe\xef\xbf\xbd");
  EXPECT_EQ(XmlText("ä\xff<\xf0\x9f\x98"), "ä\\xff&lt;\\xf0\\x9f\\x98");
}

TEST_F(FindingsFileTest, SarifHasARuleForEachKindAndAResultForEachFinding) {
  const json sarif = json::parse(SarifText(document_));
  EXPECT_EQ(sarif["version"], "2.1.0");
  ASSERT_EQ(sarif["runs"].size(), 1U);
  const json& run = sarif["runs"][0];
  const json& rules = run["tool"]["driver"]["rules"];
  ASSERT_EQ(rules.size(), 4U);
  EXPECT_EQ(rules[0]["id"], "missing-tensor");
  EXPECT_EQ(rules[0]["shortDescription"]["text"], "Missing tensor");
  ASSERT_EQ(run["results"].size(), 4U);
  for (const json& result : run["results"]) {
    EXPECT_EQ(rules[result["ruleIndex"].get<std::size_t>()]["id"], result["ruleId"]);
  }
  const json& first = run["results"][0];
  EXPECT_EQ(first["level"], "error");
  EXPECT_EQ(first["message"]["text"], "w<1> & more");
  EXPECT_EQ(first["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
            "a%20b.safetensors");
  EXPECT_EQ(first["locations"][0]["logicalLocations"][0]["fullyQualifiedName"], "w<1>");
  EXPECT_EQ(run["results"][2]["level"], "warning");
  EXPECT_EQ(run["results"][3]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], ".");
  EXPECT_EQ(run["originalUriBaseIds"]["CHECKPOINT"]["uri"], "file:///data/my%20model/");
  EXPECT_EQ(run["invocations"][0]["exitCode"], 1);
}

TEST_F(FindingsFileTest, SarifHasNoMoreResultsThanCodeScanningTakes) {
  verification_.findings.assign(kMostSarifResults, Finding(kWarning, "outlier", "a", "w", "m"));
  verification_.findings.push_back(Finding(kError, "nan", "a", "w", "m"));
  const json sarif = json::parse(SarifText(document_));
  const json& run = sarif["runs"][0];
  EXPECT_EQ(run["results"].size(), kMostSarifResults);
  EXPECT_EQ(run["results"].back()["ruleId"], "nan") << "warnings give way to errors";
  EXPECT_EQ(run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"],
            "1 more finding is not among the results, of which code scanning takes 25000; --json "
            "and --junit have all");
  EXPECT_EQ(run["invocations"][0]["executionSuccessful"], true);
}

TEST_F(FindingsFileTest, SarifTellsFindingsOfOneFileApart) {
  const json sarif = json::parse(SarifText(document_));
  const json& results = sarif["runs"][0]["results"];
  EXPECT_NE(results[0]["partialFingerprints"], results[1]["partialFingerprints"]);
}

TEST_F(FindingsFileTest, SarifIsUtf8WhateverTheNamesAre) {
  verification_.findings = {Finding(kError, "extra-file", "a\xff", "\xfe", "\xfd\x01")};
  const json sarif = json::parse(SarifText(document_));
  EXPECT_EQ(
      sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
      "a%FF");
}

TEST(UriPathTest, EscapesAllButUnreservedCharacters) {
  EXPECT_EQ(UriPath("a-b_c.d~e/F9"), "a-b_c.d~e/F9");
  EXPECT_EQ(UriPath("a:b?c#d%e[ä]"), "a%3Ab%3Fc%23d%25e%5B%C3%A4%5D");
}

}  // namespace
}  // namespace dsv3::cli
