#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/quantize.h"
#include "tests/convert/recipes/dequantize_test.h"
#include "tests/convert/support/bf16_to_fp8_test.h"
#include "tests/support/files.h"

// quantize --scales-from: the way back from dequantize, of every form that it reads.
namespace dsv3::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class RestoreTest : public DequantizeTest {
 protected:
  std::filesystem::path back() const { return dir_ / "back"; }

  void Dequantize(Made& made) {
    Write(made);
    Command().Run();
  }

  Conversion Back() const {
    return {out(), back(), convert::QuantizeConversion({.scales_from = in()})};
  }

  void ExpectRefused(ErrorCode code, const Conversion& conversion, const std::string& words) const {
    const Error error = ErrorOf([&] { conversion.Run(); });
    EXPECT_EQ(error.code(), code) << error.message();
    EXPECT_THAT(error.message(), HasSubstr(words));
    EXPECT_FALSE(std::filesystem::exists(back() / "checkpoint.manifest.json"));
  }
};

class EachFormRestoreTest : public RestoreTest,
                            public ::testing::WithParamInterface<QuantizedCase> {};

INSTANTIATE_TEST_SUITE_P(Forms, EachFormRestoreTest, ::testing::ValuesIn(kCases),
                         [](const auto& form) { return std::string(form.param.name); });

TEST_P(EachFormRestoreTest, GivesTheOriginalsFilesBack) {
  Made made = GetParam().make();
  Dequantize(made);
  for (const unsigned threads : {1U, 3U}) {
    std::filesystem::remove_all(back());
    Conversion conversion = Back();
    conversion.request.run.threads = threads;
    const convert::ConversionReport report = conversion.Run();
    EXPECT_EQ(report.recipe, "quantize");
    EXPECT_EQ(report.converted_tensors, 1U);
    auto tree = ReadTree(back());
    tree.erase("checkpoint.manifest.json");
    EXPECT_TRUE(tree == ReadTree(in()));
  }
}

TEST_F(RestoreTest, RefusesEditedWeightsByRowAndColumn) {
  Made made = PackedInt4(32);
  Dequantize(made);
  const std::string weight = std::string(kModule) + "weight";
  Poke(out(), weight, (5 * kCols + 9) * 2, "\x01\x40");
  const Error error = ErrorOf([&] { Back().Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), AllOf(HasSubstr(weight), HasSubstr("at row 5, column 9")));
}

TEST_F(RestoreTest, RefusesAnotherModelsCheckpoint) {
  Made made = PackedInt4(32);
  Dequantize(made);
  Made other = PackedInt4(32);
  other.checkpoint.Add(kTinyShard1, "more.weight", Dtype::kBF16, {2});
  Write(other);
  ExpectRefused(ErrorCode::kBadInput, Back(), "tensor 'more.weight' is not in the source");
  Made less = PackedInt4(32);
  less.checkpoint.Write(dir_ / "less");
  Conversion back = Back();
  back.kind = convert::QuantizeConversion({.scales_from = dir_ / "less"});
  ExpectRefused(ErrorCode::kBadInput, back, "tensor 'norm.weight' is not in the original");
}

TEST_F(RestoreTest, RefusesAnOriginalThatIsNotQuantised) {
  Made made = PackedInt4(32);
  Dequantize(made);
  Conversion back = Back();
  back.request.input = in();
  back.kind = convert::QuantizeConversion({.scales_from = out()});
  ExpectRefused(ErrorCode::kBadInput, back, "--scales-from");
}

TEST_F(RestoreTest, RefusesAFormBesideTheOriginal) {
  Made made = PackedInt4(32);
  Dequantize(made);
  Conversion back = Back();
  back.kind = convert::QuantizeConversion({.to = convert::QuantizeTo::kInt4, .scales_from = in()});
  ExpectRefused(ErrorCode::kUsage, back, "--to does not go with --scales-from");
  back.kind = convert::QuantizeConversion(
      {.modules = convert::QuantizeModules::kLinear, .scales_from = in()});
  ExpectRefused(ErrorCode::kUsage, back, "--modules does not go with --scales-from");
}

}  // namespace
}  // namespace dsv3::testing
