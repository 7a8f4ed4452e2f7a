#include "formats/gguf_files.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/formats/expect_error.h"
#include "tests/formats/support/gguf_maker.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using testing::ErrorOf;
using testing::ExpectBadInput;
using testing::GgufMaker;
using testing::TempDir;
using testing::WriteFile;

// Split `number` (from 0) of `count`, with one tensor.
GgufMaker Split(std::uint16_t number, std::uint16_t count, const std::string& tensor) {
  GgufMaker made;
  made.Key("split.no", number)
      .Key("split.count", count)
      .Key("split.tensors.count", std::int32_t{count})
      .Add(tensor, GgufType::kF32, {2});
  return made;
}

class GgufFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Split(0, 3, "a").Write(First());
    Split(1, 3, "b").Write(Second());
    Split(2, 3, "c").Write(dir_ / "m-00003-of-00003.gguf");
  }

  std::filesystem::path First() const { return dir_ / "m-00001-of-00003.gguf"; }
  std::filesystem::path Second() const { return dir_ / "m-00002-of-00003.gguf"; }
  template <typename... Words>
  void ExpectRefused(const Words&... words) const {
    for (const std::string name : {"m-00001-of-00003.gguf", "m-00003-of-00003.gguf"}) {
      ExpectBadInput([&] { OpenGgufFiles(dir_ / name); }, words...);
    }
  }

  TempDir dir_;
};

TEST_F(GgufFilesTest, OpensAllSplitsByTheNameOfAny) {
  for (const std::filesystem::path& named : {First(), Second()}) {
    const std::vector<GgufFile> files = OpenGgufFiles(named);
    ASSERT_EQ(files.size(), 3U);
    EXPECT_EQ(files[0].name, "m-00001-of-00003.gguf");
    EXPECT_EQ(files[0].header.tensors[0].name, "a");
    EXPECT_EQ(files[1].header.tensors[0].name, "b");
    EXPECT_EQ(files[2].name, "m-00003-of-00003.gguf");
    EXPECT_EQ(files[2].path, dir_ / "m-00003-of-00003.gguf");
  }
}

TEST_F(GgufFilesTest, AFileWithoutSplitsIsTheWholeModel) {
  GgufMaker().Add("a", GgufType::kF32, {2}).Write(dir_ / "m-00001-of-00002.gguf");
  EXPECT_EQ(OpenGgufFiles(dir_ / "m-00001-of-00002.gguf").size(), 1U);
  Split(0, 1, "a").Write(dir_ / "one.gguf");
  EXPECT_EQ(OpenGgufFiles(dir_ / "one.gguf").size(), 1U);
}

TEST_F(GgufFilesTest, RefusesAMissingSplit) {
  std::filesystem::remove(Second());
  ExpectRefused("m-00002-of-00003.gguf: this split is missing", "in 3 files");
}

TEST_F(GgufFilesTest, RefusesSplitsOfAnotherModel) {
  Split(1, 4, "b").Write(Second());
  ExpectRefused("m-00002-of-00003.gguf: ", "say 1 and 4, and split 2 of 3 has 1 and 3");
  Split(2, 3, "b").Write(Second());
  ExpectRefused("m-00002-of-00003.gguf: ", "say 2 and 3");
  GgufMaker().Add("b", GgufType::kF32, {2}).Write(Second());
  ExpectRefused("m-00002-of-00003.gguf: ", "say nothing and nothing");
  Split(1, 3, "a").Write(Second());
  ExpectRefused("m-00002-of-00003.gguf: tensor 'a' is in m-00001-of-00003.gguf, too");
  Split(1, 3, "b").Add("d", GgufType::kF32, {2}).Write(Second());
  ExpectRefused("m-00001-of-00003.gguf: split.tensors.count says that the splits hold 3 tensors",
                "they hold 4");
}

TEST_F(GgufFilesTest, RefusesASplitWithoutItsName) {
  std::filesystem::rename(Second(), dir_ / "second.gguf");
  ExpectBadInput([&] { OpenGgufFiles(dir_ / "second.gguf"); }, "second.gguf: it is one of 3 splits",
                 "NAME-00001-of-00003.gguf");
  std::filesystem::rename(dir_ / "second.gguf", dir_ / "m-00001-of-00003.gguf");
  ExpectBadInput([&] { OpenGgufFiles(First()); }, "m-00001-of-00003.gguf: ", "say 1 and 3");
}

TEST_F(GgufFilesTest, RefusesADamagedSplit) {
  WriteFile(Second(), "GGUF");
  ExpectRefused("m-00002-of-00003.gguf: ", "the version");
}

TEST(GgufSplitNameTest, IsReadAndWritten) {
  const auto name = ParseGgufSplitName("a-b-00012-of-00345.gguf");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->base, "a-b");
  EXPECT_EQ(name->number, 12U);
  EXPECT_EQ(name->count, 345U);
  EXPECT_EQ(GgufSplitFileName(*name), "a-b-00012-of-00345.gguf");
  for (const std::string_view other :
       {"a.gguf", "a-00001-of-00002", "a-0001-of-00002.gguf", "a-00000-of-00002.gguf",
        "a-00003-of-00002.gguf", "a-0000x-of-00002.gguf", "a_00001-of-00002.gguf",
        "a-00001-OF-00002.gguf", ".gguf", ""}) {
    EXPECT_FALSE(ParseGgufSplitName(other).has_value()) << other;
  }
}

TEST(GgufNumberTest, TakesEveryWholeNumber) {
  const GgufKeys keys = {{"u8", std::uint8_t{3}},
                         {"i8", std::int8_t{-1}},
                         {"i32", std::int32_t{7}},
                         {"u64", std::uint64_t{1} << 40},
                         {"bool", true},
                         {"f32", 1.0F},
                         {"text", std::string("1")},
                         {"array", std::vector<std::uint32_t>{1}},
                         {"least", std::int64_t{INT64_MIN}}};
  EXPECT_EQ(GgufNumber(keys, "u8"), 3U);
  EXPECT_EQ(GgufNumber(keys, "i32"), 7U);
  EXPECT_EQ(GgufNumber(keys, "u64"), std::uint64_t{1} << 40);
  for (const char* const key : {"i8", "bool", "f32", "text", "array", "least", "absent"}) {
    EXPECT_FALSE(GgufNumber(keys, key).has_value()) << key;
  }
}

TEST(IsGgufFileTest, ByNameOrBeginning) {
  const TempDir dir;
  WriteFile(dir / "a.gguf", "");
  WriteFile(dir / "blob", "GGUF\x03");
  WriteFile(dir / "other", "GGU");
  WriteFile(dir / "model.safetensors", "12345678{}");
  std::filesystem::create_directory(dir / "d.gguf");
  EXPECT_TRUE(IsGgufFile(dir / "a.gguf"));
  EXPECT_TRUE(IsGgufFile(dir / "blob"));
  EXPECT_FALSE(IsGgufFile(dir / "other"));
  EXPECT_FALSE(IsGgufFile(dir / "model.safetensors"));
  EXPECT_FALSE(IsGgufFile(dir / "d.gguf"));
  EXPECT_FALSE(IsGgufFile(dir / "missing.gguf"));
}

}  // namespace
}  // namespace dsv3::formats
