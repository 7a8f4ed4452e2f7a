// Zeros in weights, as a download with holes leaves them, are found whatever is made of the
// weights.

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/layout.h"
#include "convert/recipes/reshard.h"
#include "convert/recipes/to_gguf.h"
#include "formats/gguf_type.h"
#include "tests/convert/recipes/quantize_test.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"

namespace dsv3::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

constexpr char kHoled[] = "model.layers.0.mlp.down_proj.weight";             // 192 × 1024
constexpr char kZero[] = "model.layers.2.mlp.experts.3.up_proj.weight";      // 256 × 192
constexpr char kPruned[] = "model.layers.1.mlp.experts.0.gate_proj.weight";  // one row is zero
constexpr char kPadded[] = "model.embed_tokens.weight";

class HoleWarningsTest : public QuantizeTest {
 protected:
  void SetUp() override {
    MakeSampleOfGroups();
    Poke(bf16(), kHoled, 5'000, std::string(20'000, '\0'));
    Poke(bf16(), kZero, 0, std::string(TensorBytes(bf16(), kZero).size(), '\0'));
    Poke(bf16(), kPruned, 0, std::string(std::size_t{192} * 2, '\0'));
    const std::size_t all = TensorBytes(bf16(), kPadded).size();
    Poke(bf16(), kPadded, all - all / 4, std::string(all / 4, '\0'));
  }

  static std::vector<std::string> Names(const std::vector<convert::TensorCount>& counts) {
    std::vector<std::string> names;
    for (const convert::TensorCount& count : counts) {
      names.push_back(count.tensor);
      EXPECT_EQ(count.count, 1U) << count.tensor;
    }
    return names;
  }
};

TEST_F(HoleWarningsTest, OfCodesOfEveryForm) {
  for (const convert::QuantizeTo to :
       {convert::QuantizeTo::kInt8, convert::QuantizeTo::kInt4, convert::QuantizeTo::kNvFp4}) {
    convert::QuantizeOptions options;
    options.to = to;
    const convert::ConversionReport report = Run(bf16(), out(), options);
    EXPECT_THAT(report.all_zero, ElementsAre(StartsWith(kZero)));
    EXPECT_THAT(Names(report.zero_runs), ElementsAre(StartsWith(kHoled)));
    std::filesystem::remove_all(out());
  }
}

// An expert that is all zero is a part of its stack.
TEST_F(HoleWarningsTest, OfBlocksAndStacksOfGguf) {
  for (const formats::GgufType type : {formats::GgufType::kQ8_0, formats::GgufType::kBF16}) {
    convert::ToGgufOptions options;
    options.type = type;
    const convert::ConversionReport report =
        Conversion(bf16(), dir_ / "m.gguf", convert::ToGgufConversion(options)).Run();
    EXPECT_THAT(report.all_zero, IsEmpty());
    EXPECT_THAT(Names(report.zero_runs),
                ElementsAre("blk.0.ffn_down.weight", "blk.2.ffn_up_exps.weight"));
    std::filesystem::remove(dir_ / "m.gguf");
  }
}

// Rows of the vocabulary that are padding fill the last rank's slice.
TEST_F(HoleWarningsTest, OfSlicesOfRanks) {
  convert::ReshardOptions options;
  options.parallel.tp = 4;
  options.parallel.ep = 8;
  const convert::ConversionReport report = RunReshard(bf16(), out(), options).conversion;
  EXPECT_THAT(report.all_zero, ElementsAre(kZero));
  EXPECT_THAT(Names(report.zero_runs), ElementsAre(kHoled));
}

// Rows that rank 1 of 4 holds; the vocabulary has 1000 rows and is padded to 1024.
TEST_F(HoleWarningsTest, OfALostSliceOfTheVocabulary) {
  const std::size_t slice = TensorBytes(bf16(), kPadded).size() / 1000 * 256;
  Poke(bf16(), kPadded, slice, std::string(slice, '\0'));
  convert::ReshardOptions options;
  options.parallel.ep = 8;
  for (const unsigned tp : {2U, 4U, 8U}) {
    options.parallel.tp = tp;
    const convert::ConversionReport report = RunReshard(bf16(), out(), options).conversion;
    std::vector<std::string> holes;
    for (const convert::TensorCount& count : report.zero_runs) holes.push_back(count.tensor);
    if (tp == 2) {
      EXPECT_THAT(report.all_zero, Not(Contains(kPadded)));
      EXPECT_THAT(holes, Contains(kPadded));
    } else {
      EXPECT_THAT(report.all_zero, Contains(kPadded)) << tp;
      EXPECT_THAT(holes, Not(Contains(kPadded))) << tp;
    }
    std::filesystem::remove_all(out());
  }
}

// A scale that goes as it is. Casts take scales with their weights: see FormValuesTest.
TEST_F(HoleWarningsTest, OfE8M0ScalesThatWereNeverWritten) {
  convert::Bf16ToFp8Options fp8;
  fp8.scale_fmt = quant::ScaleFmt::kE8M0;
  const std::filesystem::path in = dir_ / "e8m0";
  Conversion(bf16(), in, convert::Bf16ToFp8Conversion(fp8)).Run();
  std::filesystem::remove(in / "checkpoint.manifest.json");
  const std::string scale = std::string(kPruned) + "_scale_inv";
  Poke(in, scale, 0, std::string(TensorBytes(in, scale).size(), '\0'));
  convert::ReshardOptions options;
  options.parallel.tp = 2;
  options.parallel.ep = 2;
  const convert::ConversionReport report = RunReshard(in, out(), options).conversion;
  EXPECT_THAT(report.all_zero, UnorderedElementsAre(kZero, scale));
  const convert::ConversionReport layout =
      Conversion(in, dir_ / "layout", convert::LayoutConversion({.to = "deepseek"})).Run();
  EXPECT_EQ(layout.all_zero.size(), 2U) << ::testing::PrintToString(layout.all_zero);
}

TEST_F(HoleWarningsTest, OfSliceThatIsReadFromRanks) {
  convert::ReshardOptions options;
  options.parallel.tp = 4;
  options.parallel.ep = 8;
  RunReshard(bf16(), dir_ / "ranks", options);
  const convert::ConversionReport report =
      Conversion(dir_ / "ranks", out(), convert::Bf16ToFp8Conversion({})).Run();
  EXPECT_THAT(report.all_zero, ElementsAre(kZero));
  EXPECT_THAT(Names(report.zero_runs), ElementsAre(kHoled));
}

}  // namespace
}  // namespace dsv3::testing
