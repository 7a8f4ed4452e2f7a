#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <string>

#include "tests/convert/bad_input/bad_input_test.h"

// FP8 weights and their scales, one without the other or at odds with each other.
namespace dsv3::testing {
namespace {

using formats::Dtype;

class ScaleTest : public BadInputTest {
 protected:
  void Reshape(const std::string& name, Dtype dtype, const formats::Shape& shape) {
    const std::string shard = checkpoint_.Find(name).shard;
    checkpoint_.Drop(name);
    checkpoint_.AddScale(shard, name, dtype, shape);
  }
  // Replaces element `at` of a tensor, which headers do not tell.
  void Spoil(const std::string& name, std::size_t at, const std::string& value) {
    in_structure_ = InStructure::kNotTouched;
    checkpoint_.Find(name).bytes.replace(at * value.size(), value.size(), value);
  }
};

TEST_F(ScaleTest, RefusesAWeightWithoutScale) {
  checkpoint_.Drop("b.weight_scale_inv");
  WriteInput();
  ExpectBadInput(kTinyShard1, "'b.weight'", "no scale", "'b.weight_scale_inv'", "download");
}

TEST_F(ScaleTest, RefusesAScaleWithoutWeight) {
  checkpoint_.Drop("c.weight");
  WriteInput();
  ExpectBadInput(kTinyShard4, "'c.weight_scale_inv'", "no tensor 'c.weight'");
}

TEST_F(ScaleTest, RefusesAScaleOfAWeightThatIsNotFp8) {
  checkpoint_.AddScale(kTinyShard2, "norm.weight_scale_inv", Dtype::kF32, {1, 1});
  WriteInput();
  ExpectBadInput(kTinyShard2, "'norm.weight_scale_inv'", "'norm.weight'", "BF16 and not FP8");
}

TEST_F(ScaleTest, RefusesAScaleOfTheWrongShape) {
  for (const formats::Shape& shape :
       {formats::Shape{2, 3}, formats::Shape{6}, formats::Shape{3, 2, 1}, formats::Shape{},
        formats::Shape{4, 2}, formats::Shape{0, 2}}) {
    SCOPED_TRACE(formats::ShapeToString(shape));
    Reshape("a.weight_scale_inv", Dtype::kF32, shape);
    WriteInput();
    ExpectBadInput(kTinyShard1, "'a.weight_scale_inv'",
                   "has shape " + formats::ShapeToString(shape), "expected [3, 2]", "[10, 12]",
                   "weight_block_size [4, 8]");
  }
}

TEST_F(ScaleTest, RefusesAScaleOfTheWrongDtype) {
  for (const Dtype dtype : {Dtype::kI16, Dtype::kF64, Dtype::kI32, Dtype::kU8}) {
    const std::string name(formats::DtypeName(dtype));
    SCOPED_TRACE(name);
    checkpoint_.Drop("a.weight_scale_inv");
    checkpoint_.Add(kTinyShard1, "a.weight_scale_inv", dtype, {3, 2});
    WriteInput();
    ExpectBadInput(kTinyShard1, "'a.weight_scale_inv' is " + name,
                   "expected F32, BF16, F16 or F8_E8M0");
  }
}

TEST_F(ScaleTest, RefusesAScaleThatIsItselfAnFp8Weight) {
  checkpoint_.Drop("a.weight_scale_inv");
  checkpoint_.Add(kTinyShard1, "a.weight_scale_inv", Dtype::kF8E4M3, {3, 2});
  WriteInput();
  ExpectBadInput(kTinyShard1, "'a.weight_scale_inv' is F8_E4M3");
}

TEST_F(ScaleTest, RefusesOtherFp8Formats) {
  in_structure_ = InStructure::kNotTouched;
  for (const Dtype dtype : {Dtype::kF8E4M3Fnuz, Dtype::kF8E5M2Fnuz}) {
    const std::string name(formats::DtypeName(dtype));
    SCOPED_TRACE(name);
    checkpoint_.Drop("a.weight");
    checkpoint_.Add(kTinyShard1, "a.weight", dtype, {10, 12});
    WriteInput();
    ExpectBadInput(kTinyShard1, "'a.weight' is " + name, "expected F8_E4M3 or F8_E5M2");
  }
}

TEST_F(ScaleTest, RefusesFp8WeightsThatAreNoMatrices) {
  for (const formats::Shape& shape :
       {formats::Shape{2, 2, 10, 12}, formats::Shape{12}, formats::Shape{}}) {
    SCOPED_TRACE(formats::ShapeToString(shape));
    checkpoint_.Drop("a.weight");
    checkpoint_.Add(kTinyShard1, "a.weight", Dtype::kF8E4M3, shape);
    WriteInput();
    ExpectBadInput(kTinyShard1, "'a.weight'", "has shape " + formats::ShapeToString(shape),
                   "two dimensions");
  }
}

TEST_F(ScaleTest, RefusesACheckpointThatIsNotFp8) {
  std::erase_if(checkpoint_.tensors,
                [](const TinyTensor& t) { return t.name.find(".weight") == 1; });
  WriteInput();
  ExpectBadInput("not an FP8 checkpoint", "nothing to convert");
}

// Each piece of such a weight would need all of them.
TEST_F(ScaleTest, RefusesAMillionScalesInOneRow) {
  checkpoint_.config.replace(checkpoint_.config.find("[4, 8]"), 6, "[1, 1]");
  checkpoint_.tensors.clear();
  checkpoint_.Add(kTinyShard1, "a.weight", Dtype::kF8E4M3, {1, 1'000'000});
  checkpoint_.AddScale(kTinyShard2, "a.weight_scale_inv", Dtype::kF32, {1, 1'000'000});
  WriteInput();
  ExpectBadInput(kTinyShard2, "'a.weight_scale_inv' has 1000000 columns", "at most 262144",
                 "weight_block_size [1, 1]");
}

TEST_F(ScaleTest, TakesTheLongestRowOfScales) {
  constexpr std::uint64_t kCols = std::uint64_t{1} << 18;
  checkpoint_.config.replace(checkpoint_.config.find("[4, 8]"), 6, "[1, 1]");
  checkpoint_.tensors.clear();
  checkpoint_.Add(kTinyShard1, "a.weight", Dtype::kF8E4M3, {3, kCols});
  checkpoint_.AddScale(kTinyShard2, "a.weight_scale_inv", Dtype::kBF16, {3, kCols});
  WriteInput();
  EXPECT_EQ(Convert().converted_tensors, 1u);
}

struct BadScale {
  const char* name;
  std::string f32;
  std::string bf16;
  const char* shown;
};

void PrintTo(const BadScale& param, std::ostream* out) { *out << param.name; }

std::string F32(float value) { return BytesOf(value); }
std::string BF16(std::uint16_t bits) { return BytesOf(bits); }

const BadScale kBadScales[] = {
    {"NaN", F32(std::numeric_limits<float>::quiet_NaN()), BF16(0x7FC0), " is nan at "},
    {"Infinity", F32(std::numeric_limits<float>::infinity()), BF16(0x7F80), " is inf at "},
    {"MinusInfinity", F32(-std::numeric_limits<float>::infinity()), BF16(0xFF80), " is -inf at "},
    {"Negative", F32(-0.5F), BF16(0xBF00), " is -0.5 at "},
    {"Zero", F32(0.0F), BF16(0x0000), " is 0 at "},
    {"MinusZero", F32(-0.0F), BF16(0x8000), " is -0 at "},
    {"NegativeSubnormal", BytesOf<std::uint32_t>(0x80000001), BF16(0x8001), " is -"},
};

class BadScaleTest : public ScaleTest, public ::testing::WithParamInterface<BadScale> {};

TEST_P(BadScaleTest, IsRefusedInF32WithItsPlace) {
  Spoil("a.weight_scale_inv", 5, GetParam().f32);
  WriteInput();
  ExpectBadInput(kTinyShard1, std::string("'a.weight_scale_inv'") + GetParam().shown, "at [2, 1]",
                 "finite positive", "bad scales in this tensor: 1", "--allow-bad-scales");
}

TEST_P(BadScaleTest, IsRefusedInBf16WithItsPlace) {
  Spoil("c.weight_scale_inv", 4, GetParam().bf16);
  WriteInput();
  ExpectBadInput(kTinyShard4, std::string("'c.weight_scale_inv'") + GetParam().shown, "at [1, 1]");
}

TEST_P(BadScaleTest, IsCountedWhereAllowed) {
  Spoil("a.weight_scale_inv", 5, GetParam().f32);
  Spoil("a.weight_scale_inv", 0, GetParam().f32);
  Spoil("c.weight_scale_inv", 4, GetParam().bf16);
  WriteInput();
  options_.allow_bad_scales = true;
  const convert::ConversionReport report = Convert();
  ASSERT_EQ(report.bad_scales.size(), 2u);
  EXPECT_EQ(report.bad_scales[0].tensor, "a.weight_scale_inv");
  EXPECT_EQ(report.bad_scales[0].count, 2u);
  EXPECT_EQ(report.bad_scales[1].tensor, "c.weight_scale_inv");
  EXPECT_EQ(report.bad_scales[1].count, 1u);
}

INSTANTIATE_TEST_SUITE_P(Scales, BadScaleTest, ::testing::ValuesIn(kBadScales),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_F(ScaleTest, RefusesTheNanOfE8M0) {
  Spoil("d.weight_scale_inv", 2, "\xFF");
  WriteInput();
  ExpectBadInput(kTinyShard3, "'d.weight_scale_inv' is nan at [2, 0]");
}

TEST_F(ScaleTest, TakesTheSmallestAndLargestScales) {
  Spoil("a.weight_scale_inv", 0, BytesOf<std::uint32_t>(1));
  Spoil("a.weight_scale_inv", 1, F32(std::numeric_limits<float>::max()));
  Spoil("c.weight_scale_inv", 0, BF16(0x0001));
  Spoil("d.weight_scale_inv", 0, std::string(1, '\0'));  // 2^-127
  Spoil("d.weight_scale_inv", 1, "\xFE");
  WriteInput();
  EXPECT_TRUE(Convert().bad_scales.empty());
}

TEST_F(ScaleTest, CountsTheTensorsWithBadScales) {
  Spoil("a.weight_scale_inv", 1, F32(0));
  Spoil("a.weight_scale_inv", 3, F32(0));
  Spoil("d.weight_scale_inv", 0, "\xFF");
  WriteInput();
  ExpectBadInput("'a.weight_scale_inv' is 0 at [0, 1]", "bad scales in this tensor: 2",
                 "tensors with bad scales: 2");
}

// Read in several pieces, of which the last holds the bad one.
TEST_F(ScaleTest, FindsABadScaleBeyondTheFirstMebibyte) {
  constexpr std::uint64_t kRows = 700;
  constexpr std::uint64_t kCols = 500;
  checkpoint_.config.replace(checkpoint_.config.find("[4, 8]"), 6, "[1, 1]");
  checkpoint_.tensors.clear();
  checkpoint_.Add(kTinyShard1, "a.weight", Dtype::kF8E4M3, {kRows, kCols});
  checkpoint_.AddScale(kTinyShard2, "a.weight_scale_inv", Dtype::kF32, {kRows, kCols});
  Spoil("a.weight_scale_inv", 698 * kCols + 123, F32(-1));
  WriteInput();
  ExpectBadInput(kTinyShard2, "'a.weight_scale_inv' is -1 at [698, 123]");
}

}  // namespace
}  // namespace dsv3::testing
