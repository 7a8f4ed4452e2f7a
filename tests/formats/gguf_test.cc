#include "formats/gguf.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/gguf_writer.h"
#include "formats/hash/xxh3.h"
#include "formats/io/input_file.h"
#include "tests/formats/expect_error.h"
#include "tests/formats/support/gguf_text.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using ::testing::ElementsAre;
using testing::ErrorOf;
using testing::ExpectBadInput;
using testing::GgufText;
using testing::TempDir;
using testing::WriteFile;

GgufHeader Read(std::string_view content) {
  const TempDir dir;
  WriteFile(dir / "a.gguf", content);
  return ReadGgufHeader(dir / "a.gguf", "a.gguf");
}

template <typename... Words>
void ExpectRefused(std::string_view content, const Words&... words) {
  const auto read = [&] { Read(content); };
  ExpectBadInput(read, "a.gguf: ", "; ", words...);
}

// One tensor of 32 F32 and one of Q8_0, each 128 and 34 bytes.
GgufText TwoTensors() {
  GgufText text;
  text.Counts(2, 0).Tensor("a", {32}, 0, 0).Tensor("b.weight", {32, 1}, 8, 128).Pad();
  return text;
}

std::string WithData(const GgufText& text, std::size_t bytes) {
  return text.text() + std::string(bytes, 'x');
}

TEST(GgufTest, ReadsTensorsAndTheirPlaces) {
  const GgufHeader header = Read(WithData(TwoTensors(), 128 + 34));
  EXPECT_EQ(header.version, 3U);
  ASSERT_EQ(header.tensors.size(), 2U);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[0].type, GgufType::kF32);
  EXPECT_THAT(header.tensors[0].shape, ElementsAre(32));
  EXPECT_EQ(header.tensors[0].bytes, 128U);
  EXPECT_EQ(header.tensors[1].type, GgufType::kQ8_0);
  EXPECT_THAT(header.tensors[1].shape, ElementsAre(1, 32));
  EXPECT_EQ(header.tensors[1].offset, 128U);
  EXPECT_EQ(header.tensors[1].bytes, 34U);
  EXPECT_EQ(header.data_offset % 32, 0U);
  const std::string text = TwoTensors().text();
  EXPECT_EQ(header.digest, Xxh3Hex(std::as_bytes(std::span(text))));
}

TEST(GgufTest, TakesZerosUpToTheAlignmentBehindTheLastTensor) {
  EXPECT_EQ(Read(WithData(TwoTensors(), 128 + 64)).tensors.size(), 2U);
  ExpectRefused(WithData(TwoTensors(), 128 + 34 + 32), "32 bytes behind its last tensor");
}

TEST(GgufTest, RefusesEveryPrefix) {
  const std::string whole = WithData(TwoTensors(), 128 + 34);
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    ExpectRefused(whole.substr(0, bytes));
  }
  ExpectRefused("", "the file is empty");
  ExpectRefused(whole.substr(0, 90), "ends within its header", "cut off");
  ExpectRefused(whole.substr(0, whole.size() - 1), "tensor 'b.weight'", "truncated", "34 bytes");
}

TEST(GgufTest, ReadsEveryKindOfValue) {
  const GgufKeys keys = {
      {"u8", std::uint8_t{200}},
      {"i8", std::int8_t{-3}},
      {"u16", std::uint16_t{60000}},
      {"i16", std::int16_t{-300}},
      {"u32", std::uint32_t{4000000000}},
      {"i32", std::int32_t{-70000}},
      {"f32", 1.5F},
      {"bool", true},
      {"text", std::string("\xFF ok")},
      {"u64", std::uint64_t{1} << 63},
      {"i64", std::int64_t{-1}},
      {"f64", 0.1},
      {"texts", std::vector<std::string>{"a", "", "b c"}},
      {"bools", std::vector<bool>{true, false, true}},
      {"floats", std::vector<float>{1, 2}},
      {"ints", std::vector<std::int32_t>{-1, 2}},
      {"none", std::vector<std::uint8_t>{}},
      {"i8s", std::vector<std::int8_t>{-1}},
      {"u16s", std::vector<std::uint16_t>{1}},
      {"i16s", std::vector<std::int16_t>{-1}},
      {"u32s", std::vector<std::uint32_t>{1}},
      {"u64s", std::vector<std::uint64_t>{1}},
      {"i64s", std::vector<std::int64_t>{-1}},
      {"f64s", std::vector<double>{0.5}},
  };
  const GgufHeader header = Read(SerializeGgufHeader(keys, {}));
  EXPECT_EQ(header.keys, keys);
  EXPECT_EQ(std::get<float>(*FindGgufKey(header.keys, "f32")), 1.5F);
  EXPECT_EQ(FindGgufKey(header.keys, "f33"), nullptr);
}

TEST(GgufTest, TakesTheAlignmentOfTheKey) {
  GgufText text;
  text.Counts(1, 1).Key("general.alignment", 4).U32(64).Tensor("a", {1}, 0, 0);
  text.Pad(64);
  EXPECT_EQ(Read(WithData(text, 4)).alignment, 64U);
  for (const std::uint32_t wrong : {0U, 48U}) {
    GgufText other;
    other.Counts(0, 1).Key("general.alignment", 4).U32(wrong);
    ExpectRefused(other.text(), "key 'general.alignment'", "not a power of two");
  }
  GgufText other;
  other.Counts(0, 1).Key("general.alignment", 10).U64(32);
  ExpectRefused(other.text(), "key 'general.alignment'", "32-bit");
}

TEST(GgufTest, RefusesOtherFilesAndVersions) {
  ExpectRefused("{\"a\": 1, and so on", "does not begin with GGUF");
  ExpectRefused("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-lfs pointer");
  ExpectRefused(GgufText(1).Counts(0, 0).text(), "version 1", "2 and 3 are read");
  ExpectRefused(GgufText(4).Counts(0, 0).text(), "version 4");
  ExpectRefused(GgufText(0x03000000).Counts(0, 0).text(), "big-endian");
  EXPECT_EQ(Read(GgufText(2).Counts(0, 0).text()).version, 2U);
}

TEST(GgufTest, RefusesCountsThatTheFileCannotHold) {
  ExpectRefused(GgufText().Counts(UINT64_MAX, 0).text(), "the number of tensors is");
  ExpectRefused(GgufText().Counts(0, UINT64_MAX).text(), "the number of keys is");
  ExpectRefused(GgufText().Counts(0, 1).Key("k", 9).U32(6).U64(UINT64_MAX / 4).text(), "key 'k'",
                "the number of elements is");
  ExpectRefused(GgufText().Counts(0, 1).Key("k", 8).U64(UINT64_MAX).U64(0).text(), "key 'k'",
                "ends within its header");
}

TEST(GgufTest, RefusesFaultyKeys) {
  ExpectRefused(GgufText().Counts(0, 1).Key("", 7).U64(0).text(), "key 1 of 1", "is empty");
  ExpectRefused(GgufText().Counts(0, 1).Key("k", 13).U64(0).text(), "key 'k'", "the kind 13");
  ExpectRefused(GgufText().Counts(0, 1).Key("k", 9).U32(9).U64(0).text(), "arrays of arrays");
  ExpectRefused(GgufText().Counts(0, 1).Key("k", 9).U32(13).U64(0).text(), "the kind 13");
  ExpectRefused(GgufText().Counts(0, 1).Key("k", 7).U64(2).text(), "the byte 2 is not a bool");
  ExpectRefused(GgufText().Counts(0, 2).Key("k", 4).U32(1).Key("k", 4).U32(2).text(), "key 'k'",
                "comes twice");
  ExpectRefused(GgufText().Counts(0, 1).Key(std::string(70'000, 'k'), 4).U32(1).text(),
                "the format allows 65.5 kB");
}

TEST(GgufTest, RefusesFaultyTensors) {
  const auto one = [](const std::string& name, const std::vector<std::uint64_t>& dims,
                      std::uint32_t type, std::uint64_t offset) {
    return WithData(GgufText().Counts(1, 0).Tensor(name, dims, type, offset).Pad(), 128);
  };
  EXPECT_EQ(Read(one(std::string(64, 'n'), {32}, 0, 0)).tensors.size(), 1U);
  ExpectRefused(one(std::string(65, 'n'), {32}, 0, 0), "tensor 1 of the header", "allows 64 bytes");
  ExpectRefused(one("t", {1, 1, 1, 1, 32}, 0, 0), "tensor 't'", "5 dimensions");
  ExpectRefused(one("t", {32}, 4, 0), "tensor 't'", "unknown type 4");
  ExpectRefused(one("t", {33}, 8, 0), "tensor 't'", "rows of 33 elements", "blocks of 32");
  ExpectRefused(one("t", {UINT64_MAX / 2, 32}, 0, 0), "tensor 't'", "overflows");
  ExpectRefused(one("t", {UINT64_MAX / 2}, 0, 0), "tensor 't'", "overflows");
  ExpectRefused(one("t", {32}, 0, 16), "tensor 't'", "not a multiple of the alignment");
  ExpectRefused(one("t", {33}, 0, 0), "tensor 't'", "truncated");
  ExpectRefused(one("t", {31}, 0, UINT64_MAX - 31), "tensor 't'", "belong to no tensor");
}

TEST(GgufTest, RefusesTensorsThatOverlapLeaveAHoleOrComeTwice) {
  const auto two = [](const char* name, std::uint64_t offset) {
    GgufText text;
    text.Counts(2, 0).Tensor("a", {32}, 0, 0).Tensor(name, {1}, 0, offset).Pad();
    return WithData(text, 256);
  };
  ExpectRefused(two("b", 96), "tensor 'b'", "within the bytes [0, 128) of tensor 'a'");
  ExpectRefused(two("b", 160), "tensor 'b'", "belong to no tensor");
  ExpectRefused(two("a", 128), "tensor 'a'", "comes twice");
}

TEST(GgufTest, BoundsTheHeader) {
  const TempDir dir;
  GgufText text;
  text.Counts(0, 1).Key("k", 8).U64(kMaxGgufHeaderBytes);
  WriteFile(dir / "a.gguf", text.text());
  std::filesystem::resize_file(dir / "a.gguf", 2 * kMaxGgufHeaderBytes);
  ExpectBadInput([&] { ReadGgufHeader(dir / "a.gguf", "a.gguf"); }, "key 'k'", "is not read");
}

TEST(GgufWriterTest, WritesTheBytesOfTheFormat) {
  std::vector<GgufTensor> tensors = {{"a", GgufType::kF32, {2, 3}, 0, 0},
                                     {"b", GgufType::kQ8_0, {1, 64}, 0, 0},
                                     {"c", GgufType::kBF16, {1}, 0, 0}};
  LayOutGgufTensors(tensors);
  EXPECT_EQ(tensors[1].offset, 32U);
  EXPECT_EQ(tensors[1].bytes, 68U);
  EXPECT_EQ(tensors[2].offset, 128U);
  GgufText expected;
  expected.Counts(3, 2).Key("k", 4).U32(7).Key("t", 9).U32(8).U64(1).Text("x");
  expected.Tensor("a", {3, 2}, 0, 0).Tensor("b", {64, 1}, 8, 32).Tensor("c", {1}, 30, 128).Pad();
  EXPECT_EQ(
      SerializeGgufHeader({{"k", std::uint32_t{7}}, {"t", std::vector<std::string>{"x"}}}, tensors),
      expected.text());
}

TEST(GgufWriterTest, RefusesWhatReadersRefuse) {
  const auto write = [](const GgufKeys& keys, const std::vector<GgufTensor>& tensors) {
    return [&] { SerializeGgufHeader(keys, tensors); };
  };
  const GgufTensor sound{"a", GgufType::kF32, {1}, 0, 4};
  GgufTensor wrong = sound;
  wrong.name = std::string(65, 'n');
  ExpectBadInput(write({}, {wrong}), "65 bytes", "at most 64;");
  wrong = sound;
  wrong.shape = {1, 1, 1, 1, 1};
  ExpectBadInput(write({}, {wrong}), "tensor 'a'", "at most 4 dimensions");
  ExpectBadInput(write({}, {sound, sound}), "tensor 'a'", "twice");
  ExpectBadInput(write({{"k", true}, {"k", true}}, {}), "the key 'k'");
  ExpectBadInput(write({{"", true}}, {}), "the key ''");
  ExpectBadInput(write({{"k", std::string(kMaxGgufHeaderBytes, 'x')}}, {}), "readers take");
  std::vector<GgufTensor> part = {{"a", GgufType::kQ8_0, {33}, 0, 0}};
  EXPECT_EQ(ErrorOf([&] { LayOutGgufTensors(part); }).code(), ErrorCode::kInternal);
}

TEST(GgufTypeTest, KnowsTheBytesOfBlocks) {
  EXPECT_EQ(GgufNumBytes(GgufType::kQ4_0, {2, 64}), 72U);
  EXPECT_EQ(GgufNumBytes(GgufType::kMxfp4, {32}), 17U);
  EXPECT_EQ(GgufNumBytes(GgufType::kNvfp4, {64}), 36U);
  EXPECT_EQ(GgufNumBytes(GgufType::kF16, {}), 2U);
  EXPECT_EQ(GgufNumBytes(GgufType::kQ8_0, {0, 32}), 0U);
  EXPECT_EQ(GgufNumBytes(GgufType::kQ8_0, {32, 8}), std::nullopt);
  EXPECT_EQ(FindGgufType(36), nullptr);
  EXPECT_EQ(FindGgufType(14)->name, "Q6_K");
}

}  // namespace
}  // namespace dsv3::formats
