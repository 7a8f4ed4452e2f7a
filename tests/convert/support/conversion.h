#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "convert/job/runner.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "formats/error.h"
#include "formats/io/file_system.h"
#include "tests/convert/support/quick_file_system.h"

// What tests of whole conversions share.
namespace dsv3::testing {

// Keeps the warnings.
class WarningSink : public convert::ProgressSink {
 public:
  void OnWarning(const std::string& message) override {
    const std::lock_guard lock(mutex_);
    warnings_.push_back(message);
  }
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  std::mutex mutex_;
  std::vector<std::string> warnings_;
};

// One fp8-to-bf16 command, or another; a test changes what it is about and calls Run.
struct Conversion {
  convert::JobRequest request;
  convert::ConversionKind kind;

  Conversion(const std::filesystem::path& input, const std::filesystem::path& output,
             convert::ConversionKind what = convert::Fp8ToBf16Conversion())
      : request{input, output}, kind(std::move(what)) {
    request.run.threads = 1;
  }

  convert::ConversionReport Run(formats::FileSystem& file_system,
                                convert::ProgressSink& progress) const {
    const convert::StopToken stop;
    return convert::RunConversion(kind, request, file_system, progress, stop);
  }
  convert::ConversionReport Run(formats::FileSystem& file_system) const {
    convert::ProgressSink progress;
    return Run(file_system, progress);
  }
  convert::ConversionReport Run() const {
    QuickFileSystem file_system;
    return Run(file_system);
  }
};

// The Error that `call` throws, or one with code kInternal that says that it threw none.
template <typename Call>
Error ErrorOf(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::kInternal, "no error was thrown");
}

// File modification times by name, of all regular files below `directory`.
std::map<std::string, std::filesystem::file_time_type> FileTimes(
    const std::filesystem::path& directory);
// Sets those of the files that are there.
void RestoreFileTimes(const std::filesystem::path& directory,
                      const std::map<std::string, std::filesystem::file_time_type>& times);

// A line for each entry below `directory`: name, type, size, modification time and inode, to tell
// whether anything at all was touched.
std::string DetailedListing(const std::filesystem::path& directory);

}  // namespace dsv3::testing
