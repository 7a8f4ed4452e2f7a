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
  Clear(codes, 5'000, 4'096);
  EXPECT_THAT(zero_runs(made), OneOf(std::string(kModule) + "weight"));
}

}  // namespace
}  // namespace dsv3::testing
