#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/dequantize.h"
#include "formats/error.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {

// What lies below a directory, links not followed: relative name → kind, size and time of change.
// Two equal snapshots mean that nothing was made, removed or written in between.
std::map<std::string, std::string> Snapshot(const std::filesystem::path& directory);

// A safetensors file as it is on the disk, whatever `header` holds.
std::string SafetensorsFile(std::string_view header, std::string_view data);

// The little-endian bytes of a value, such as a header's length or a scale.
template <typename T>
std::string BytesOf(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

// By how many bytes the process's peak memory rose above what it held before the last Reset. 0
// where the system does not tell.
class PeakMemory {
 public:
  PeakMemory();
  std::uint64_t Growth() const;

 private:
  std::uint64_t before_ = 0;
};

// Converts hand-made checkpoints below a directory of its own: `in` to `out`, unless a test sets
// request_ otherwise. A test spoils checkpoint_ or the files that WriteInput made of it.
class BadInputTest : public ::testing::Test {
 protected:
  BadInputTest();

  std::filesystem::path in() const { return dir_ / "in"; }
  std::filesystem::path out() const { return dir_ / "out"; }

  void WriteInput() const { checkpoint_.Write(in()); }
  convert::ConversionReport Convert();

  // What convert::VerifyStructure makes of an input that a conversion refuses.
  enum class InStructure {
    kListed,      // an error among its findings, about the same file or tensor
    kRefused,     // the same Error: there is nothing to look at
    kNotTouched,  // nothing: headers, index and config are right as they are
  };

  // The Error of the conversion. Expects that there is one, that neither input nor output nor
  // anything beside them was touched, that the message can be shown to a person, and that little
  // memory was used. Of the input (kBadInput) it expects in_structure_ as well.
  Error Refusal();

  // Expects a Refusal with this code and a message that holds all of `words`.
  template <typename... Words>
  void ExpectRefused(ErrorCode code, const Words&... words) {
    const Error error = Refusal();
    EXPECT_EQ(error.code(), code) << error.message();
    EXPECT_THAT(error.message(), ::testing::AllOf(::testing::HasSubstr(words)...));
  }
  template <typename... Words>
  void ExpectBadInput(const Words&... words) {
    ExpectRefused(ErrorCode::kBadInput, words...);
  }
  template <typename... Words>
  void ExpectUsageError(const Words&... words) {
    ExpectRefused(ErrorCode::kUsage, words...);
  }

  // The messages of the report's warnings.
  static std::vector<std::string> Warnings(const convert::ConversionReport& report);

  TempDir dir_;
  TinyCheckpoint checkpoint_ = SmallFp8Checkpoint();
  convert::JobRequest request_;
  convert::DequantizeOptions options_;
  InStructure in_structure_ = InStructure::kListed;

 private:
  void ExpectInStructure(const Error& refusal) const;
};

}  // namespace dsv3::testing
