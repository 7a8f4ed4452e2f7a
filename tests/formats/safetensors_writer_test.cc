#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "formats/safetensors.h"
#include "tests/formats/expect_error.h"
#include "tests/formats/safetensors_text.h"

namespace dsv3::formats {
namespace {

using dsv3::testing::ErrorOf;
using dsv3::testing::Parse;

SafetensorsTensor Tensor(std::string name, Dtype dtype, Shape shape) {
  return {.name = std::move(name), .dtype = dtype, .shape = std::move(shape), .begin = 0, .end = 0};
}

TEST(SafetensorsWriterTest, OrdersByDtypeDescendingThenByName) {
  std::vector<SafetensorsTensor> tensors;
  for (int i = 0; i < kNumDtypes; ++i) {
    tensors.push_back(Tensor("a", static_cast<Dtype>(i), {8}));
  }
  tensors.push_back(Tensor("Z", Dtype::kBF16, {2}));
  tensors.push_back(Tensor("\xC3\xA9", Dtype::kBF16, {2}));
  LayOutTensors(tensors);
  EXPECT_EQ(tensors.front().dtype, Dtype::kU64);
  EXPECT_EQ(tensors.back().dtype, Dtype::kBool);
  std::uint64_t offset = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(tensors[i].begin, offset);
    offset = tensors[i].end;
    if (i == 0) continue;
    EXPECT_GE(tensors[i - 1].dtype, tensors[i].dtype);
    if (tensors[i - 1].dtype == tensors[i].dtype) {
      EXPECT_LT(tensors[i - 1].name, tensors[i].name);
    }
  }
}

TEST(SafetensorsWriterTest, OverflowIsAnError) {
  std::vector<SafetensorsTensor> one = {Tensor("a", Dtype::kU8, {~std::uint64_t{0}, 2})};
  EXPECT_EQ(ErrorOf([&] { LayOutTensors(one); }).code(), ErrorCode::kInternal);
  std::vector<SafetensorsTensor> sum;
  for (int i = 0; i < 9; ++i) {
    sum.push_back(Tensor(std::to_string(i), Dtype::kU8, {(std::uint64_t{1} << 61) - 1}));
  }
  EXPECT_EQ(ErrorOf([&] { LayOutTensors(sum); }).place().tensor, "8");
}

TEST(SafetensorsWriterTest, WritesCompactJsonPaddedToEight) {
  std::vector<SafetensorsTensor> tensors = {Tensor("w", Dtype::kF8E4M3, {2, 3}),
                                            Tensor("s", Dtype::kF32, {})};
  LayOutTensors(tensors);
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("w":{"dtype":"F8_E4M3","shape":[2,3],"data_offsets":[4,10]}})";
  const std::string header = SerializeSafetensorsHeader(tensors, {{"format", "pt"}});
  EXPECT_EQ(header.size() % 8, 0U);
  EXPECT_EQ(static_cast<unsigned char>(header[0]), header.size() - 8);
  EXPECT_EQ(header.substr(1, 7), std::string(7, '\0'));
  EXPECT_EQ(header.substr(8, json.size()), json);
  EXPECT_EQ(header.find_first_not_of(' ', 8 + json.size()), std::string::npos);
}

TEST(SafetensorsWriterTest, WithoutMetadataThereIsNoMetadataMember) {
  EXPECT_EQ(SerializeSafetensorsHeader({}, {}), std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
}

TEST(SafetensorsWriterTest, NamesAreEscapedAsTheReferenceDoes) {
  std::vector<SafetensorsTensor> tensors = {Tensor("é\"\\/\n\x01\x7F", Dtype::kU8, {0})};
  EXPECT_NE(SerializeSafetensorsHeader(tensors, {}).find("\"é\\\"\\\\/\\n\\u0001\x7F\":"),
            std::string::npos);
}

TEST(SafetensorsWriterTest, WhatIsWrittenIsReadBack) {
  std::vector<SafetensorsTensor> tensors;
  for (int i = 0; i < kNumDtypes; ++i) {
    tensors.push_back(Tensor("t\n\u00e9" + std::to_string(i), static_cast<Dtype>(i),
                             {static_cast<unsigned>(i), 8}));
  }
  LayOutTensors(tensors);
  std::string file = SerializeSafetensorsHeader(tensors, {{"a", "b"}, {"c", "\t"}});
  file.append(tensors.back().end, '\0');
  const SafetensorsHeader header = Parse(file);
  EXPECT_EQ(header.metadata, (SafetensorsMetadata{{"a", "b"}, {"c", "\t"}}));
  EXPECT_TRUE(header.nonconformities.empty());
  ASSERT_EQ(header.tensors.size(), tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(header.tensors[i].name, tensors[i].name);
    EXPECT_EQ(header.tensors[i].dtype, tensors[i].dtype);
    EXPECT_EQ(header.tensors[i].shape, tensors[i].shape);
    EXPECT_EQ(header.tensors[i].begin, tensors[i].begin);
  }
}

TEST(SafetensorsWriterTest, AHeaderBeyondTheFormatsLimitIsAnError) {
  const std::vector<SafetensorsTensor> tensors = {
      Tensor(std::string(kMaxSafetensorsHeaderBytes, 'x'), Dtype::kU8, {0})};
  dsv3::testing::ExpectBadInput([&] { SerializeSafetensorsHeader(tensors, {}); },
                                "the format allows 100.0 MB (100,000,000 bytes)", "more files");
}

}  // namespace
}  // namespace dsv3::formats
