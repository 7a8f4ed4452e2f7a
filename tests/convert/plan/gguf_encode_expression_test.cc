#include "convert/plan/gguf_encode_expression.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/plan/dequantize_expression.h"
#include "convert/plan/slice_expression.h"
#include "convert/plan/transpose_expression.h"
#include "formats/error.h"
#include "quant/codec.h"
#include "quant/codes.h"
#include "quant/gguf_blocks.h"
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

constexpr std::uint64_t kRows = 6;
constexpr std::uint64_t kCols = 96;

// A BF16 and an FP8 matrix with scales for 4 × 32 blocks.
TinyCheckpoint Matrices() {
  TinyCheckpoint checkpoint;
  std::string& values = checkpoint.Add("a", "bf16", Dtype::kBF16, {kRows, kCols}).bytes;
  for (std::size_t i = 1; i < values.size(); i += 2) values[i] &= '\x3F';  // finite
  std::string& codes = checkpoint.Add("a", "fp8", Dtype::kF8E4M3, {kRows, kCols}).bytes;
  for (char& code : codes) code &= '\x77';
  checkpoint.AddScale("a", "scale", Dtype::kF32, {2, 3});
  return checkpoint;
}

std::vector<float> FloatsOf(const std::string& bytes) {
  std::vector<float> values;
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes.data() + i, sizeof bits);
    values.push_back(quant::DecodeBF16(bits));
  }
  return values;
}

std::string Encoded(GgufType type, const std::vector<float>& values) {
  std::string out;
  if (type == GgufType::kQ8_0) {
    out.resize(values.size() / 32 * 34);
    quant::EncodeQ8_0Scalar(values, reinterpret_cast<std::byte*>(out.data()));
    return out;
  }
  for (const float value : values) {
    const std::uint16_t half =
        type == GgufType::kF16 ? quant::EncodeF16(value) : quant::EncodeBF16(value);
    const bool whole = type == GgufType::kF32;
    out.append(whole ? reinterpret_cast<const char*>(&value) : reinterpret_cast<const char*>(&half),
               whole ? 4 : 2);
  }
  return out;
}

std::vector<float> Products(TinyCheckpoint& checkpoint) {
  const std::string& codes = checkpoint.Find("fp8").bytes;
  const std::string& scales = checkpoint.Find("scale").bytes;
  std::vector<float> values;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    float scale = 0;
    std::memcpy(&scale, scales.data() + 4 * (i / kCols / 4 * 3 + i % kCols / 32), sizeof scale);
    values.push_back(quant::DecodeE4M3(static_cast<std::uint8_t>(codes[i])) * scale);
  }
  return values;
}

TEST(GgufEncodeExpression, RoundsFloatsInAnyPieces) {
  TinyCheckpoint checkpoint = Matrices();
  const MemorySource source(checkpoint);
  std::mt19937 random(1);
  const std::vector<float> values = FloatsOf(checkpoint.Find("bf16").bytes);
  for (const GgufType type : {GgufType::kF32, GgufType::kF16, GgufType::kQ8_0}) {
    const ExpressionPtr made =
        EncodeGguf(Copy(source.catalog(), source.catalog().Find("bf16")), type);
    EXPECT_EQ(made->rule(), "encode");
    EXPECT_EQ(made->shape(), ShapeOfGguf(type, {kRows, kCols}));
    ExpectInAnyPieces(source, *made, Encoded(type, values), random);
  }
  const ExpressionPtr same =
      EncodeGguf(Copy(source.catalog(), source.catalog().Find("bf16")), GgufType::kBF16);
  EXPECT_EQ(same->rule(), "copy");
}

// The products are not rounded to BF16 before.
TEST(GgufEncodeExpression, RoundsProductsOnce) {
  TinyCheckpoint checkpoint = Matrices();
  const MemorySource source(checkpoint);
  std::mt19937 random(2);
  const std::vector<float> values = Products(checkpoint);
  const ScaledWeight pair = testing::MatrixPair(source.catalog(), source.catalog().Find("fp8"),
                                                source.catalog().Find("scale"), {4, 32});
  for (const GgufType type : {GgufType::kF32, GgufType::kF16, GgufType::kBF16, GgufType::kQ8_0}) {
    ExpectInAnyPieces(source, *EncodeGguf(DequantizeToF32(source.catalog(), pair), type),
                      Encoded(type, values), random);
  }
}

TEST(GgufEncodeExpression, EncodesTransposedPartsOfHeads) {
  TinyCheckpoint checkpoint;
  std::string& bytes = checkpoint.Add("a", "kv", Dtype::kBF16, {2 * (32 + 3), 5}).bytes;
  for (std::size_t i = 1; i < bytes.size(); i += 2) bytes[i] &= '\x3F';
  const MemorySource source(checkpoint);
  const std::vector<float> values = FloatsOf(bytes);
  const ExpressionPtr whole = Copy(source.catalog(), 0);
  const auto keys = std::make_shared<SliceExpression>(
      Dtype::kBF16, formats::Shape{2, 32, 5},
      std::vector<SlicePart>{{whole, {0, 32, 0, 5}}, {whole, {35, 67, 0, 5}}});
  std::vector<float> transposed;
  for (std::size_t head = 0; head < 2; ++head) {
    for (std::size_t col = 0; col < 5; ++col) {
      for (std::size_t row = 0; row < 32; ++row) {
        transposed.push_back(values[(head * 35 + row) * 5 + col]);
      }
    }
  }
  std::mt19937 random(3);
  const ExpressionPtr made = TransposeMatrices(keys);
  EXPECT_EQ(made->shape(), (formats::Shape{2, 5, 32}));
  ExpectInAnyPieces(source, *made, Encoded(GgufType::kBF16, transposed), random);
  ExpectInAnyPieces(source, *EncodeGguf(made, GgufType::kQ8_0),
                    Encoded(GgufType::kQ8_0, transposed), random);
}

TEST(GgufEncodeExpression, RefusesWhatHasNoBlocks) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("a", "odd", Dtype::kBF16, {2, 33});
  checkpoint.Add("a", "bytes", Dtype::kU8, {2, 32});
  const MemorySource source(checkpoint);
  const auto code_of = [&](std::uint32_t tensor, GgufType type) {
    return testing::ErrorOf([&] { EncodeGguf(Copy(source.catalog(), tensor), type); }).message();
  };
  EXPECT_THAT(code_of(0, GgufType::kQ8_0), ::testing::HasSubstr("[2, 33] is to be made Q8_0"));
  EXPECT_THAT(code_of(1, GgufType::kF32), ::testing::HasSubstr("U8"));
  EXPECT_THAT(code_of(0, GgufType::kQ4_0), ::testing::HasSubstr("Q4_0"));
}

}  // namespace
}  // namespace dsv3::convert
