#include "tests/convert/recipes/dequantize_test.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/stream/executor.h"
#include "convert/verify/compare.h"
#include "convert/verify/numeric.h"
#include "tests/support/files.h"

// dequantize of every form, against values that are made here from the forms' definitions.
namespace dsv3::testing {
namespace {

class EachFormDequantizeTest : public DequantizeTest,
                               public ::testing::WithParamInterface<QuantizedCase> {};

INSTANTIATE_TEST_SUITE_P(Forms, EachFormDequantizeTest, ::testing::ValuesIn(kCases),
                         [](const auto& form) { return std::string(form.param.name); });

TEST_P(EachFormDequantizeTest, MakesTheValuesOfTheDefinition) {
  Made made = GetParam().make();
  Write(made);
  TinyTensor expected{
      kTinyShard1, std::string(kModule) + "weight", Dtype::kBF16, {kRows, kCols}, ""};
  for (std::uint64_t row = 0; row < kRows; ++row) {
    for (std::uint64_t col = 0; col < kCols; ++col) {
      const auto bits = std::bit_cast<std::uint32_t>(made.value(row, col));
      const auto rounded = static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
      expected.bytes.append(reinterpret_cast<const char*>(&rounded), sizeof rounded);
    }
  }
  TinyCheckpoint result;
  result.tensors = {expected, made.checkpoint.Find("norm.weight")};

  const convert::ConversionReport report = Command().Run();
  EXPECT_EQ(report.recipe, "dequantize");
  EXPECT_EQ(report.converted_tensors, 1U);
  EXPECT_EQ(ReadFile(out() / kTinyShard1), result.ShardBytes(kTinyShard1));
  EXPECT_FALSE(std::filesystem::exists(out() / kTinyShard2));  // it held scales alone
  const std::string config = ReadFile(out() / "config.json");
  EXPECT_EQ(config.find("quantization_config"), std::string::npos);
  EXPECT_EQ(config.find("expert_dtype"), std::string::npos);
  for (const auto& [name, text] : made.checkpoint.side_files) {
    EXPECT_FALSE(std::filesystem::exists(out() / name)) << name;
  }

  // The same bytes whatever the memory and the threads.
  Conversion small = Command();
  small.request.output = dir_ / "small";
  small.request.run.threads = 2;
  small.request.run.memory_bytes = convert::kMinMemoryBytes;
  small.Run();
  EXPECT_EQ(ReadFile(dir_ / "small" / kTinyShard1), ReadFile(out() / kTinyShard1));
}

TEST_P(EachFormDequantizeTest, CompareFindsTheSameValues) {
  Made made = GetParam().make();
  Write(made);
  Command().Run();
  convert::CompareRequest request;
  request.a = in();
  request.b = out();
  convert::ProgressSink progress;
  const convert::StopToken stop;
  for (int turn = 0; turn < 2; ++turn) {
    const convert::CompareReport report = convert::CompareCheckpoints(request, progress, stop);
    std::vector<std::string> messages;
    for (const formats::Finding& finding : report.verification.findings) {
      messages.push_back(finding.message);
    }
    // W4AFP8's scales of activations are beside no weight of their name.
    if (std::string(GetParam().name) != "W4AFp8") {
      EXPECT_THAT(messages, ::testing::IsEmpty());
    }
    EXPECT_EQ(report.counts.identical_values, 1U);
    EXPECT_EQ(report.counts.different, 0U);
    std::swap(request.a, request.b);
  }
}

TEST_P(EachFormDequantizeTest, NumericReadsTheValues) {
  Made made = GetParam().make();
  Write(made);
  double absmax = 0;
  for (std::uint64_t row = 0; row < kRows; ++row) {
    for (std::uint64_t col = 0; col < kCols; ++col) {
      absmax = std::max(absmax, std::abs(double{made.value(row, col)}));
    }
  }
  convert::ProgressSink progress;
  const convert::StopToken stop;
  const convert::NumericReport report =
      convert::VerifyNumeric({.input = in(), .histogram = ""}, progress, stop);
  std::size_t scaled = 0;
  for (const convert::NumericTensor& tensor : report.tensors) {
    if (!tensor.scaled) continue;
    ++scaled;
    EXPECT_EQ(tensor.name, kModule + made.codes);
    EXPECT_EQ(tensor.values, kRows * kCols);
    EXPECT_EQ(tensor.absmax, absmax);
  }
  EXPECT_EQ(scaled, 1U);
}

TEST_F(DequantizeTest, NumericNamesScalesOfAwqWhereTheyAreStored) {
  Made made = Awq(64);
  made.checkpoint.Find(std::string(kModule) + "scales")
      .bytes.replace((2 * kRows + 5) * 2, 2, std::string("\x00\x7E", 2));
  Write(made);
  convert::ProgressSink progress;
  const convert::StopToken stop;
  const convert::NumericReport report =
      convert::VerifyNumeric({.input = in(), .histogram = ""}, progress, stop);
  std::vector<std::string> bad;
  for (const formats::Finding& finding : report.verification.findings) {
    if (finding.kind == "bad-scale") bad.push_back(finding.message);
  }
  EXPECT_THAT(bad, ::testing::ElementsAre(::testing::HasSubstr("the first is nan at [2, 5]")));
}

TEST_F(DequantizeTest, CastsFp8AsFp8ToBf16Does) {
  const TinyCheckpoint checkpoint = SmallFp8Checkpoint();
  checkpoint.Write(in());
  Conversion(in(), dir_ / "cast").Run();
  Command().Run();
  for (const char* const shard : {kTinyShard1, kTinyShard2, kTinyShard3}) {
    EXPECT_EQ(ReadFile(out() / shard), ReadFile(dir_ / "cast" / shard)) << shard;
  }
  EXPECT_EQ(ReadFile(out() / "config.json"), ReadFile(dir_ / "cast" / "config.json"));
}

}  // namespace
}  // namespace dsv3::testing
