#include "cli/junit.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "cli/units.h"
#include "formats/json/utf8.h"

namespace dsv3::cli {

namespace {

using formats::Finding;
using formats::Severity;

// The test case for findings about the checkpoint as a whole.
constexpr std::string_view kWholeCase = "(checkpoint)";

struct TestCase {
  std::string name;
  std::vector<const Finding*> failures;
  std::vector<const Finding*> notes;  // warnings that do not fail it
};

// In the order of the names, and the one without a file last.
std::vector<TestCase> TestCases(const CheckRecord& check) {
  std::map<std::string, TestCase> by_file;
  for (const std::string& file : check.verification.files) by_file[file].name = file;
  TestCase whole;
  whole.name = kWholeCase;
  for (const Finding& finding : check.verification.findings) {
    TestCase& test = finding.file.empty() ? whole : by_file[finding.file];
    if (!finding.file.empty()) test.name = finding.file;
    const bool fails = finding.severity == Severity::kError || check.warnings_fail;
    (fails ? test.failures : test.notes).push_back(&finding);
  }
  std::vector<TestCase> tests;
  tests.reserve(by_file.size() + 1);
  for (auto& [file, test] : by_file) tests.push_back(std::move(test));
  tests.push_back(std::move(whole));
  return tests;
}

std::string Line(const Finding& finding) {
  std::string line = finding.kind + ": ";
  if (!finding.tensor.empty()) line += finding.tensor + ": ";
  return line + finding.message + "\n";
}

std::string Lines(const std::vector<const Finding*>& findings) {
  std::string text;
  for (const Finding* finding : findings) text += Line(*finding);
  return text;
}

// The one kind of all findings, or that they are of several.
std::string KindOf(const std::vector<const Finding*>& findings) {
  std::set<std::string> kinds;
  for (const Finding* finding : findings) kinds.insert(finding->kind);
  return kinds.size() == 1 ? *kinds.begin() : "several";
}

// A reader shows the message in a list; the lines below it have all details.
std::string ShortMessage(const std::vector<const Finding*>& findings) {
  if (findings.size() == 1) return findings[0]->message;
  return fmt::format("{}, first: {}", FormatCountOf(findings.size(), "finding"),
                     findings[0]->message);
}

std::string TimeText(double seconds) { return fmt::format("{:.3f}", seconds); }

// The content of the whole check's test case beside findings.
std::string OutcomeOf(const CheckRecord& check) {
  if (check.error) {
    return fmt::format("      <error message=\"{}\" type=\"{}\"/>\n",
                       XmlText(check.error->message()), ErrorCodeName(check.error->code()));
  }
  if (check.skipped.empty()) return "";
  return fmt::format("      <skipped message=\"{}\"/>\n", XmlText(check.skipped));
}

void AppendCase(std::string& out, const std::string& class_name, const TestCase& test,
                const CheckRecord& check) {
  const bool whole = test.name == kWholeCase;
  // Only the time of the whole check was taken.
  out += fmt::format("    <testcase name=\"{}\" classname=\"{}\" time=\"{}\"", XmlText(test.name),
                     XmlText(class_name), whole ? TimeText(check.seconds) : "0");
  const std::string outcome = whole ? OutcomeOf(check) : "";
  if (test.failures.empty() && test.notes.empty() && outcome.empty()) {
    out += "/>\n";
    return;
  }
  out += ">\n" + outcome;
  if (!test.failures.empty()) {
    out += fmt::format("      <failure message=\"{}\" type=\"{}\">{}</failure>\n",
                       XmlText(ShortMessage(test.failures)), XmlText(KindOf(test.failures)),
                       XmlText(Lines(test.failures)));
  }
  if (!test.notes.empty()) {
    out += fmt::format("      <system-out>{}</system-out>\n", XmlText(Lines(test.notes)));
  }
  out += "    </testcase>\n";
}

struct Counts {
  std::size_t tests = 0;
  std::size_t failures = 0;
  std::size_t errors = 0;
  std::size_t skipped = 0;
  double seconds = 0;

  void Add(const Counts& other) {
    tests += other.tests;
    failures += other.failures;
    errors += other.errors;
    skipped += other.skipped;
    seconds += other.seconds;
  }
  std::string Attributes() const {
    return fmt::format("tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{}\"",
                       tests, failures, errors, skipped, TimeText(seconds));
  }
};

std::string SuiteText(const FindingsDocument& document, const CheckRecord& check, Counts& counts) {
  const std::vector<TestCase> tests = TestCases(check);
  counts.tests = tests.size();
  counts.failures = static_cast<std::size_t>(std::count_if(
      tests.begin(), tests.end(), [](const TestCase& test) { return !test.failures.empty(); }));
  counts.errors = check.error ? 1 : 0;
  counts.skipped = check.skipped.empty() ? 0 : 1;
  counts.seconds = check.seconds;
  std::string class_name = document.tool + "." + check.command;
  std::replace(class_name.begin(), class_name.end(), ' ', '-');
  std::string out =
      fmt::format("  <testsuite name=\"{}\" {} timestamp=\"{}\">\n",
                  XmlText(check.command + " " + document.directory.filename().string()),
                  counts.Attributes(), UtcText(check.begin));
  for (const TestCase& test : tests) AppendCase(out, class_name, test, check);
  return out + "  </testsuite>\n";
}

// XML 1.0, production Char: controls but tab and line ends have no form, nor have U+FFFE and
// U+FFFF, which in UTF-8 are EF BF BE and EF BF BF.
std::size_t ForbiddenLength(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x20 && first != '\t' && first != '\n' && first != '\r') return 1;
  return text.starts_with("\xef\xbf\xbe") || text.starts_with("\xef\xbf\xbf") ? 3 : 0;
}

}  // namespace

std::string XmlText(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const bool is_utf8 = formats::FindInvalidUtf8(text.substr(0, 4)) > 0 ||
                         static_cast<unsigned char>(text[0]) < 0x80;
    const std::size_t forbidden = is_utf8 ? ForbiddenLength(text) : 1;
    if (forbidden == 1) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(static_cast<unsigned char>(text[0])));
    } else if (forbidden == 3) {
      out += text[2] == '\xbe' ? "\\ufffe" : "\\uffff";
    } else if (text[0] == '&') {
      out += "&amp;";
    } else if (text[0] == '<') {
      out += "&lt;";
    } else if (text[0] == '>') {
      out += "&gt;";
    } else if (text[0] == '"') {
      out += "&quot;";
    } else if (text[0] == '\t' || text[0] == '\n' || text[0] == '\r') {
      out += fmt::format("&#{};", static_cast<int>(text[0]));
    } else {
      out += text[0];
      // The rest of a character beyond ASCII, which begins none of the above.
      std::size_t length = 1;
      while (length < text.size() && (text[length] & 0xC0) == 0x80 && (text[0] & 0x80) != 0) {
        out += text[length++];
      }
      text.remove_prefix(length - 1);
    }
    text.remove_prefix(std::max<std::size_t>(1, forbidden));
  }
  return out;
}

std::string JUnitText(const FindingsDocument& document) {
  Counts all;
  std::string suites;
  for (const CheckRecord& check : document.checks) {
    Counts counts;
    suites += SuiteText(document, check, counts);
    all.Add(counts);
  }
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{}\" {}>\n{}</testsuites>\n",
      XmlText(document.tool), all.Attributes(), suites);
}

}  // namespace dsv3::cli
