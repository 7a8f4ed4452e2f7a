#include "convert/forward/row_values.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/support/value_bytes.h"
#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using ::testing::ElementsAre;

constexpr TensorRows kLastRows = {.tensor = 0, .first = 1, .end = 3, .cols = 4};

// A matrix [3, 4] and its scale.
Catalog MatrixOf(Dtype dtype) {
  SourceFile file;
  file.name = "model.safetensors";
  return Catalog({file}, {{"w.weight", dtype, {3, 4}, {}}, {"w.scale", Dtype::kF32, {1, 1}, {}}});
}

std::vector<float> ValuesOf(const WeightPanel& panel, std::size_t count) {
  std::vector<float> values(count);
  panel.CopyTo(values.data(), count);
  return values;
}

TEST(RowValuesTest, BF16RowsStayWhereTheyAreAndColumnsAreCutOut) {
  const Catalog catalog = MatrixOf(Dtype::kBF16);
  const std::string bytes = testing::BF16Bytes({5, 6, 7, 8, 9, 10, 11, 12});
  const std::vector<std::span<const std::byte>> inputs = {testing::AsBytes(bytes)};
  RowValues rows;
  rows.Make(catalog, ScaleMap({}, 2), kLastRows, inputs, WeightValues::kBF16);
  EXPECT_EQ(static_cast<const void*>(rows.panel().bf16), bytes.data());
  EXPECT_EQ(rows.panel().At(6), 11);
  rows.KeepColumns(2, 4, 1, 3);
  EXPECT_THAT(ValuesOf(rows.panel(), 4), ElementsAre(6, 7, 10, 11));
  rows.MakeFloats(4);
  EXPECT_EQ(rows.panel().bf16, nullptr);
  EXPECT_THAT(ValuesOf(rows.panel(), 4), ElementsAre(6, 7, 10, 11));
}

TEST(RowValuesTest, Fp8RowsAreExactOrRounded) {
  const Catalog catalog = MatrixOf(Dtype::kF8E4M3);
  const std::vector<ScaledWeight> pairs = {
      {.weight = 0, .scale = 1, .rows = 3, .cols = 4, .block = {3, 4}}};
  const ScaleMap scales(pairs, 2);
  const std::string codes = "\x38\x40\x48\x50\xB8\xC0\xC8\xD0";  // ±1, 2, 4, 8
  const std::string scale = testing::F32Bytes({0.3F});
  const std::vector<std::span<const std::byte>> inputs = {testing::AsBytes(codes),
                                                          testing::AsBytes(scale)};
  RowValues rows;
  rows.Make(catalog, scales, kLastRows, inputs, WeightValues::kExact);
  EXPECT_EQ(rows.panel().bf16, nullptr);
  rows.KeepColumns(2, 4, 2, 4);
  EXPECT_THAT(ValuesOf(rows.panel(), 4), ElementsAre(1.2F, 2.4F, -1.2F, -2.4F));

  rows.Make(catalog, scales, kLastRows, inputs, WeightValues::kBF16);
  EXPECT_EQ(rows.panel().floats, nullptr);
  // 0.3 in BF16 is 0.30078125.
  EXPECT_THAT(ValuesOf(rows.panel(), 2), ElementsAre(0.30078125F, 0.6015625F));
}

}  // namespace
}  // namespace dsv3::convert
