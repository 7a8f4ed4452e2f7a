#include "convert/plan/gguf_four_bit_expression.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "formats/error.h"
#include "quant/codec.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/random_cuts.h"
#include "tests/convert/support/tiny_checkpoint.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::GgufType;
using testing::ExpectInAnyPieces;
using testing::MemorySource;
using testing::TinyCheckpoint;

constexpr std::uint64_t kRows = 5;
constexpr std::uint64_t kCols = 96;

TinyCheckpoint Weights() {
  TinyCheckpoint checkpoint;
  checkpoint.Add("a", "int4", Dtype::kI32, {kRows, kCols / 8});
  checkpoint.AddScale("a", "int4_scale", Dtype::kBF16, {kRows, kCols / 32});
  checkpoint.Add("a", "fp4", Dtype::kI8, {kRows, kCols / 2});
  checkpoint.AddScale("a", "fp4_scale", Dtype::kF8E8M0, {kRows, kCols / 32});
  return checkpoint;
}

ScaledWeight Weight(const MemorySource& source, const std::string& name, quant::CodeFormat format,
                    quant::ScaleFormat scales) {
  ScaledWeight weight;
  weight.weight = source.catalog().Find(name);
  weight.scale = source.catalog().Find(name + "_scale");
  weight.rows = kRows;
  weight.cols = kCols;
  weight.block = {1, 32};
  weight.format = format;
  weight.scale_format = scales;
  return weight;
}

// A block's codes, elements j and j + 16 of `codes` in byte j.
std::string Codes(const std::string& codes, std::size_t block) {
  std::string out;
  const auto code = [&](std::size_t element) {
    const auto byte = static_cast<unsigned char>(codes[block * 16 + element / 2]);
    return element % 2 == 0 ? byte % 16 : byte / 16;
  };
  for (std::size_t j = 0; j < 16; ++j) out += static_cast<char>(code(j) + 16 * code(j + 16));
  return out;
}

TEST(FourBitGguf, MovesTheCodesOfInt4InAnyPieces) {
  TinyCheckpoint checkpoint = Weights();
  const MemorySource source(checkpoint);
  const ScaledWeight weight =
      Weight(source, "int4", quant::CodeFormat::kI4Offset, quant::ScaleFormat::kBF16);
  EXPECT_EQ(FourBitGgufType(weight), GgufType::kQ4_0);
  std::string expected;
  const std::string& scales = checkpoint.Find("int4_scale").bytes;
  for (std::size_t block = 0; block < kRows * kCols / 32; ++block) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, scales.data() + 2 * block, sizeof bits);
    const std::uint16_t half = quant::EncodeF16(quant::DecodeBF16(bits));
    expected.append(reinterpret_cast<const char*>(&half), sizeof half);
    expected += Codes(checkpoint.Find("int4").bytes, block);
  }
  const ExpressionPtr made = FourBitGguf(source.catalog(), weight);
  EXPECT_EQ(made->rule(), "repack");
  EXPECT_EQ(made->shape(), (formats::Shape{kRows, kCols / 32 * 18}));
  std::mt19937 random(2);
  ExpectInAnyPieces(source, *made, expected, random);
}

TEST(FourBitGguf, MovesTheCodesOfMxfp4InAnyPieces) {
  TinyCheckpoint checkpoint = Weights();
  const MemorySource source(checkpoint);
  const ScaledWeight weight =
      Weight(source, "fp4", quant::CodeFormat::kE2M1, quant::ScaleFormat::kE8M0);
  EXPECT_EQ(FourBitGgufType(weight), GgufType::kMxfp4);
  std::string expected;
  for (std::size_t block = 0; block < kRows * kCols / 32; ++block) {
    expected += checkpoint.Find("fp4_scale").bytes[block];
    expected += Codes(checkpoint.Find("fp4").bytes, block);
  }
  std::mt19937 random(3);
  ExpectInAnyPieces(source, *FourBitGguf(source.catalog(), weight), expected, random);
}

TEST(FourBitGguf, HasNoTypeForOtherWeights) {
  TinyCheckpoint checkpoint = Weights();
  const MemorySource source(checkpoint);
  const ScaledWeight int4 =
      Weight(source, "int4", quant::CodeFormat::kI4Offset, quant::ScaleFormat::kBF16);
  const auto has_none = [&](const ScaledWeight& weight) {
    EXPECT_EQ(FourBitGgufType(weight), std::nullopt);
    EXPECT_EQ(testing::ErrorOf([&] { FourBitGguf(source.catalog(), weight); }).code(),
              ErrorCode::kInternal);
  };
  ScaledWeight other = int4;
  other.block = {1, 16};
  has_none(other);
  other = int4;
  other.zeros = int4.scale;
  has_none(other);
  other = int4;
  other.tensor_scale = int4.scale;
  has_none(other);
  other = int4;
  other.format = quant::CodeFormat::kI4;
  has_none(other);
  other.format = quant::CodeFormat::kE2M1;  // with scales that are no powers of two
  has_none(other);
  other = int4;
  other.rows = kRows + 1;  // a type, but other codes
  EXPECT_EQ(testing::ErrorOf([&] { FourBitGguf(source.catalog(), other); }).code(),
            ErrorCode::kInternal);
}

}  // namespace
}  // namespace dsv3::convert
