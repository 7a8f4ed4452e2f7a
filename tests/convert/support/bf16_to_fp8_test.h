#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/job/runner.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "convert/recipes/sample.h"
#include "formats/json/json_edit.h"
#include "formats/safetensors.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// What tests of bf16-to-fp8 share.
namespace dsv3::testing {

// A tensor of a checkpoint on the disk.
struct Place {
  std::filesystem::path file;
  formats::SafetensorsTensor entry;
  std::uint64_t offset = 0;
};

inline Place FindTensor(const std::filesystem::path& directory, const std::string& name) {
  for (const auto& file : std::filesystem::directory_iterator(directory)) {
    if (file.path().extension() != ".safetensors") continue;
    const auto header = formats::ReadSafetensorsHeader(file.path(), "");
    for (const auto& tensor : header.tensors) {
      if (tensor.name == name) return {file.path(), tensor, header.data_offset + tensor.begin};
    }
  }
  return {};
}

inline std::string TensorBytes(const std::filesystem::path& directory, const std::string& name) {
  const Place place = FindTensor(directory, name);
  if (place.file.empty()) return {};
  return ReadFile(place.file)
      .substr(static_cast<std::size_t>(place.offset),
              static_cast<std::size_t>(place.entry.end - place.entry.begin));
}

inline void Poke(const std::filesystem::path& directory, const std::string& tensor,
                 std::uint64_t at, const std::string& bytes) {
  const Place place = FindTensor(directory, tensor);
  std::string content = ReadFile(place.file);
  content.replace(static_cast<std::size_t>(place.offset + at), bytes.size(), bytes);
  WriteFile(place.file, content);
}

// A sample checkpoint of the family and its BF16 form, which tests may spoil.
class Bf16ToFp8Test : public ::testing::Test {
 protected:
  std::filesystem::path fp8() const { return dir_ / "fp8"; }
  std::filesystem::path bf16() const { return dir_ / "bf16"; }
  std::filesystem::path out() const { return dir_ / "out"; }

  void MakeSample(std::uint64_t seed = 1,
                  convert::SamplePreset preset = convert::SamplePreset::kTiny) {
    convert::ProgressSink progress;
    const convert::StopToken stop;
    convert::WriteSample({preset, seed}, fp8(), quick_, progress);
    convert::JobRequest request;
    request.input = fp8();
    request.output = bf16();
    convert::RunConversion(convert::Fp8ToBf16Conversion(), request, quick_, progress, stop);
  }

  convert::ConversionReport Convert() {
    request_.input = bf16();
    request_.output = out();
    convert::ProgressSink progress;
    const convert::StopToken stop;
    report_ = convert::RunConversion(convert::Bf16ToFp8Conversion(options_), request_, quick_,
                                     progress, stop);
    return report_;
  }
  convert::Bf16ToFp8Options& options() { return options_; }

  void ExpectRefused(ErrorCode code, const std::vector<std::string>& words) {
    const Error error = ErrorOf([&] { Convert(); });
    EXPECT_EQ(error.code(), code) << error.message();
    for (const std::string& word : words) EXPECT_THAT(error.message(), ::testing::HasSubstr(word));
    EXPECT_FALSE(std::filesystem::exists(out() / "checkpoint.manifest.json"));
  }

  nlohmann::json Config() const { return nlohmann::json::parse(ReadFile(out() / "config.json")); }
  void EditConfig(const std::string& member, const std::string& json) {
    const std::string text = ReadFile(bf16() / "config.json");
    WriteFile(bf16() / "config.json", formats::AppendJsonMember(text, member, json, "config.json"));
  }

  TempDir dir_{MemoryDirectory()};
  QuickFileSystem quick_;
  convert::JobRequest request_;
  convert::Bf16ToFp8Options options_;
  convert::ConversionReport report_;
};

}  // namespace dsv3::testing
