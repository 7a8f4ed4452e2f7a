#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/support/conversion.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {

// A small checkpoint that is converted in parts.
class PartTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SmallFp8Checkpoint().Write(in_);
    Whole(dir_ / "expected").Run();
    expected_ = ReadTree(dir_ / "expected");
  }

  Conversion Whole(const std::filesystem::path& output) const { return {in_, output}; }
  Conversion Whole() const { return Whole(out_); }
  Conversion Part(std::uint64_t index, std::uint64_t count) const {
    Conversion conversion = Whole();
    conversion.request.run.part = convert::RunOptions::Part{index, count};
    return conversion;
  }
  Conversion Finish() const {
    Conversion conversion = Whole();
    conversion.request.run.finish = true;
    return conversion;
  }

  std::size_t CountShards() const {
    std::size_t count = 0;
    for (const std::filesystem::directory_entry& entry :
         std::filesystem::directory_iterator(out_)) {
      count += entry.path().extension() == ".safetensors" ? 1 : 0;
    }
    return count;
  }

  // Ends a run by a failing disk once `reached`.
  void InterruptWhen(const Conversion& conversion, const std::function<bool()>& reached) const {
    QuickFileSystem quick;
    for (std::size_t at = 0; !reached(); ++at) {
      FaultyFileSystem faulty(quick, at, EIO, FaultyFileSystem::Failing::kFromThenOn);
      const Error error = ErrorOf([&] { conversion.Run(faulty); });
      ASSERT_EQ(error.code(), ErrorCode::kIo) << error.message();
    }
  }

  void InterruptAfter(const Conversion& conversion, const std::string& name) const {
    InterruptWhen(conversion, [&] { return std::filesystem::exists(out_ / name); });
  }

  std::string Listing() const {
    return std::filesystem::exists(out_) ? DetailedListing(out_) : std::string();
  }

  // The command must fail with this code and message, and touch nothing.
  void ExpectRefused(const Conversion& conversion, ErrorCode code, const std::string& message) {
    const std::string before = Listing();
    const Error error = ErrorOf([&] { conversion.Run(); });
    EXPECT_EQ(error.code(), code) << error.message();
    EXPECT_THAT(error.message(), ::testing::HasSubstr(message));
    EXPECT_EQ(Listing(), before);
  }

  void ExpectFinished() const { ExpectSameTree(ReadTree(out_), expected_); }

  TempDir dir_;
  std::filesystem::path in_ = dir_ / "in";
  std::filesystem::path out_ = dir_ / "out";
  std::map<std::string, std::string> expected_;
};

}  // namespace dsv3::testing
