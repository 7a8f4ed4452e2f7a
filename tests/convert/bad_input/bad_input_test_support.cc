#include <algorithm>
#include <fstream>
#include <optional>

#include <fmt/format.h>

#include "convert/job/runner.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "convert/verify/structure.h"
#include "formats/io/file_system.h"
#include "tests/convert/bad_input/bad_input_test.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;

// A few files of a few KB need little more than the threads' stacks and the executor's buffers,
// and what a sanitizer adds.
constexpr std::uint64_t kMostMemoryBytes = std::uint64_t{384} << 20;

// A field of /proc/self/status in bytes; 0 where there is none.
std::uint64_t StatusBytes(std::string_view field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with(field)) continue;
    return std::stoull(line.substr(field.size())) * 1024;
  }
  return 0;
}

void ExpectPresentable(const std::string& message) {
  constexpr std::size_t kShortest = 20;
  constexpr std::size_t kLongest = 2000;
  EXPECT_GT(message.size(), kShortest);
  EXPECT_LT(message.size(), kLongest);
  EXPECT_TRUE(std::none_of(message.begin(), message.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == '\x7F';
  })) << message;
}

}  // namespace

std::map<std::string, std::string> Snapshot(const fs::path& directory) {
  std::map<std::string, std::string> snapshot;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const fs::file_status status = entry->symlink_status();
    std::string state = fmt::format("type {}", static_cast<int>(status.type()));
    if (status.type() == fs::file_type::regular) {
      state += fmt::format(", {} bytes, time {}", entry->file_size(),
                           entry->last_write_time().time_since_epoch().count());
    }
    snapshot[entry->path().lexically_relative(directory).string()] = state;
  }
  return snapshot;
}

std::string SafetensorsFile(std::string_view header, std::string_view data) {
  return BytesOf<std::uint64_t>(header.size()).append(header).append(data);
}

PeakMemory::PeakMemory() {
  std::ofstream("/proc/self/clear_refs") << "5";
  before_ = StatusBytes("VmHWM:");
}

std::uint64_t PeakMemory::Growth() const {
  const std::uint64_t now = StatusBytes("VmHWM:");
  return now - std::min(now, before_);
}

BadInputTest::BadInputTest() {
  request_.input = in();
  request_.output = out();
}

convert::ConversionReport BadInputTest::Convert() {
  convert::ProgressSink progress;
  const convert::StopToken stop;
  return convert::RunConversion(convert::Fp8ToBf16Conversion(options_), request_,
                                formats::PosixFileSystem(), progress, stop);
}

Error BadInputTest::Refusal() {
  const auto before = Snapshot(dir_.path());
  const PeakMemory memory;
  std::optional<Error> refusal;
  try {
    Convert();
  } catch (const Error& error) {
    refusal = error;
  }
  if (refusal && refusal->code() == ErrorCode::kBadInput) ExpectInStructure(*refusal);
  EXPECT_LE(memory.Growth(), kMostMemoryBytes);
  EXPECT_EQ(Snapshot(dir_.path()), before);
  if (!refusal) {
    ADD_FAILURE() << "the conversion was not refused";
    return Error(ErrorCode::kInternal, "");
  }
  ExpectPresentable(refusal->message());
  return *refusal;
}

void BadInputTest::ExpectInStructure(const Error& refusal) const {
  std::optional<Error> error;
  formats::Findings findings;
  try {
    findings = convert::VerifyStructure({request_.input}).verification.findings;
  } catch (const Error& thrown) {
    error = thrown;
  }
  if (in_structure_ == InStructure::kRefused) {
    ASSERT_TRUE(error) << "nothing was refused by VerifyStructure";
    EXPECT_EQ(error->code(), refusal.code());
    EXPECT_EQ(error->message(), refusal.message());
    return;
  }
  ASSERT_FALSE(error) << error->message();
  const std::string file = fs::path(refusal.place().file).filename();
  const std::string& tensor = refusal.place().tensor;
  std::size_t listed = 0;
  for (const formats::Finding& finding : findings) {
    ExpectPresentable(finding.message);
    const bool same_file = !file.empty() && fs::path(finding.file).filename() == file;
    const bool same_tensor = !tensor.empty() && finding.tensor == tensor;
    const bool is_error = finding.severity == formats::Severity::kError;
    const bool no_place = file.empty() && tensor.empty();
    if (is_error && (same_file || same_tensor || no_place)) ++listed;
    if (in_structure_ == InStructure::kNotTouched) {
      EXPECT_FALSE(is_error) << finding.message;
    }
  }
  if (in_structure_ == InStructure::kListed) {
    EXPECT_GT(listed, 0U) << "VerifyStructure does not list what was refused: "
                          << refusal.message();
  }
}

std::vector<std::string> BadInputTest::Warnings(const convert::ConversionReport& report) {
  std::vector<std::string> messages;
  for (const formats::Finding& warning : report.warnings) messages.push_back(warning.message);
  return messages;
}

}  // namespace dsv3::testing
