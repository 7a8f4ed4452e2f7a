// Holes in codes of integers are found whatever is made of the weights.

#include <cstdint>
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/dequantize.h"
#include "convert/recipes/repack.h"
#include "tests/convert/recipes/dequantize_test.h"
#include "tests/convert/recipes/repack_test.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/tiny_checkpoint.h"

namespace dsv3::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

const std::string kCodes = std::string(kExpert) + "w1.weight";

auto OneOf(const std::string& prefix) {
  return ElementsAre(AllOf(Field(&convert::TensorCount::tensor, StartsWith(prefix)),
                           Field(&convert::TensorCount::count, 1U)));
}

void Clear(TinyTensor& tensor, std::size_t begin, std::size_t count) {
  ASSERT_LE(begin + count, tensor.bytes.size());
  tensor.bytes.replace(begin, count, count, '\0');
}

// The warnings of scales that were never written.
formats::Findings ZeroScales(const convert::ConversionReport& report) {
  formats::Findings found = report.warnings;
  std::erase_if(found, [](const formats::Finding& each) { return each.kind != "zero-scales"; });
  return found;
}

using CodeHolesTest = RepackTest;

TEST_F(CodeHolesTest, AreWarnedOfByEveryRepacking) {
  for (const RepackTarget target : {RepackTarget::kFp8, RepackTarget::kNvFp4ModelOpt}) {
    TinyCheckpoint checkpoint = V4Checkpoint();
    EXPECT_THAT(Repack(checkpoint, target).zero_runs, IsEmpty());
    Clear(checkpoint.Find(kCodes), 777, 2'048);
    const convert::ConversionReport report = Repack(checkpoint, target);
    EXPECT_THAT(report.zero_runs, OneOf(std::string(kExpert) + "w1.weight"));
    EXPECT_THAT(report.all_zero, IsEmpty());
    // A shorter run may be anything, and rows at the end may be padding.
    checkpoint = V4Checkpoint();
    Clear(checkpoint.Find(kCodes), 777, 2'000);
    Clear(checkpoint.Find(kCodes), (kV4Rows - 20) * kV4Cols / 2, 20 * kV4Cols / 2);
    EXPECT_THAT(Repack(checkpoint, target).zero_runs, IsEmpty());
    Clear(checkpoint.Find(kCodes), 0, kV4Rows * kV4Cols / 2);
    EXPECT_THAT(Repack(checkpoint, target).all_zero,
                ElementsAre(StartsWith(std::string(kExpert) + "w1.weight")));
  }
}

// FP4 reads a zero byte as zeros, INT4 as the least value, -8.
TEST_F(CodeHolesTest, AreWarnedOfWhereTheyAreDequantised) {
  const auto zero_runs = [&](const Made& made) {
    std::filesystem::remove_all(in());
    std::filesystem::remove_all(out());
    made.checkpoint.Write(in());
    return Conversion(in(), out(), convert::DequantizeConversion()).Run().zero_runs;
  };
  for (Made made : {NvFp4(false), NvFp4(true), MxFp4(false), MxFp4(true)}) {
    EXPECT_THAT(zero_runs(made), IsEmpty());
    Clear(made.checkpoint.Find(kModule + made.codes), 500, 2'048);
    EXPECT_THAT(zero_runs(made), OneOf(std::string(kModule) + "weight"));
  }
  Made made;
  TinyTensor& codes = made.Add("weight_packed", Dtype::kI32, {64, 128});
  made.AddScale("weight_scale", Dtype::kBF16, {64, 32});
  const std::uint64_t dimensions[] = {64, 1024};
  made.Add("weight_shape", Dtype::kI64, {2})
      .bytes.assign(reinterpret_cast<const char*>(dimensions), sizeof dimensions);
  SetConfig(made, Compressed("pack-quantized",
                             R"({"num_bits": 4, "type": "int", "strategy": "group",
                                 "group_size": 32})"));
  EXPECT_THAT(zero_runs(made), IsEmpty());
  Clear(codes, 5'000, 1'024);
  EXPECT_THAT(zero_runs(made), OneOf(std::string(kModule) + "weight"));
}

// A row of blocks that a quantiser would write for zeros alone; the codes are others.
TEST_F(CodeHolesTest, AreWarnedOfInScalesThatAreRepacked) {
  TinyCheckpoint checkpoint = V4Checkpoint();
  EXPECT_THAT(ZeroScales(Repack(checkpoint, RepackTarget::kFp8)), IsEmpty());
  TinyTensor& scale = checkpoint.Find(std::string(kExpert) + "w1.scale");
  Clear(scale, 0, scale.bytes.size());
  const formats::Findings found = ZeroScales(Repack(checkpoint, RepackTarget::kFp8));
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].tensor, scale.name);
}

// A byte 0 of an E8M0 scale is 2^-127, which is written for blocks of zeros alone.
TEST_F(CodeHolesTest, AreWarnedOfInE8M0Scales) {
  for (const bool compressed : {false, true}) {
    Made made = MxFp4(compressed);
    TinyTensor& scale =
        made.checkpoint.Find(std::string(kModule) + (compressed ? "weight_scale" : "scale"));
    const auto warnings = [&] {
      std::filesystem::remove_all(in());
      std::filesystem::remove_all(out());
      made.checkpoint.Write(in());
      return ZeroScales(Conversion(in(), out(), convert::DequantizeConversion()).Run());
    };
    EXPECT_THAT(warnings(), IsEmpty());
    Clear(scale, 7, 3);
    const formats::Findings found = warnings();
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].tensor, scale.name);
    EXPECT_THAT(found[0].message, HasSubstr("3 of the scales in '" + scale.name + "' are 2^-127"));
  }
}

}  // namespace
}  // namespace dsv3::testing
