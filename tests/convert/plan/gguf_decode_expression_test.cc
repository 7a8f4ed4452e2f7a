#include "convert/plan/gguf_decode_expression.h"

#include <cstddef>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/plan/gguf_encode_expression.h"
#include "convert/plan/slice_expression.h"
#include "formats/error.h"
#include "quant/gguf_values.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/random_cuts.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::GgufType;
using formats::Shape;
using testing::ExpectInAnyPieces;
using testing::MemorySource;
using testing::TinyCheckpoint;

const Shape kShape = {2, 5, 96};

std::string Decoded(GgufType type, const std::string& bytes, std::size_t values) {
  std::vector<float> floats(values);
  switch (type) {
    case GgufType::kQ8_0:
      quant::DecodeQ8_0(testing::AsBytes(bytes), floats.data());
      break;
    case GgufType::kQ4_0:
      quant::DecodeQ4_0(testing::AsBytes(bytes), floats.data());
      break;
    default:
      quant::DecodeMxfp4(testing::AsBytes(bytes), floats.data());
  }
  std::string out(values * sizeof(float), '\0');
  std::memcpy(out.data(), floats.data(), out.size());
  return out;
}

TEST(GgufDecodeExpression, MakesValuesInAnyPieces) {
  std::mt19937 random(1);
  for (const GgufType type : {GgufType::kQ8_0, GgufType::kQ4_0, GgufType::kMxfp4}) {
    TinyCheckpoint checkpoint;
    const std::string bytes =
        checkpoint.Add("a", "blocks", Dtype::kU8, ShapeOfGguf(type, kShape)).bytes;
    const MemorySource source(checkpoint);
    const ExpressionPtr all = Copy(source.catalog(), 0);
    const ExpressionPtr made = DecodeGguf(all, type, kShape);
    EXPECT_EQ(made->rule(), "decode");
    EXPECT_EQ(made->dtype(), Dtype::kF32);
    EXPECT_EQ(made->shape(), kShape);
    ExpectInAnyPieces(source, *made, Decoded(type, bytes, 960), random);
    // The second of two matrices.
    const std::uint64_t cols = ShapeOfGguf(type, kShape).back();
    const auto second = std::make_shared<SliceExpression>(
        Dtype::kU8, Shape{5, cols}, std::vector<SlicePart>{{all, {5, 10, 0, cols}}});
    ExpectInAnyPieces(source, *DecodeGguf(second, type, {5, 96}),
                      Decoded(type, bytes.substr(bytes.size() / 2), 480), random);
  }
}

TEST(GgufDecodeExpression, TypesThatAreDtypesNeedNothing) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("a", "bf16", Dtype::kBF16, {4, 6});
  const MemorySource source(checkpoint);
  const ExpressionPtr copy = Copy(source.catalog(), 0);
  EXPECT_EQ(DecodeGguf(copy, GgufType::kBF16, {4, 6}), copy);
}

TEST(GgufDecodeExpression, SaysWhatIsDecoded) {
  for (const GgufType type : {GgufType::kF32, GgufType::kF16, GgufType::kBF16, GgufType::kQ8_0,
                              GgufType::kQ4_0, GgufType::kMxfp4, GgufType::kI32, GgufType::kF64}) {
    EXPECT_TRUE(IsDecodedGguf(type)) << static_cast<int>(type);
  }
  const formats::GgufTypeInfo* const q4_k = formats::FindGgufType(12);
  ASSERT_NE(q4_k, nullptr);
  EXPECT_FALSE(IsDecodedGguf(q4_k->type));
  EXPECT_FALSE(IsDecodedGguf(GgufType::kNvfp4));
}

TEST(GgufDecodeExpression, RefusesOtherBytes) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("a", "blocks", Dtype::kU8, {2, 34});
  const MemorySource source(checkpoint);
  const auto code_of = [&](GgufType type, const Shape& shape) {
    return testing::ErrorOf([&] { DecodeGguf(Copy(source.catalog(), 0), type, shape); }).code();
  };
  EXPECT_EQ(code_of(GgufType::kQ8_0, {2, 64}), ErrorCode::kInternal);
  EXPECT_EQ(code_of(GgufType::kQ8_0, {2, 33}), ErrorCode::kInternal);
  EXPECT_EQ(code_of(GgufType::kNvfp4, {2, 64}), ErrorCode::kInternal);
}

}  // namespace
}  // namespace dsv3::convert
