#include "formats/safetensors.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "formats/hash/xxh3.h"
#include "tests/formats/expect_error.h"
#include "tests/formats/safetensors_text.h"

namespace dsv3::formats {
namespace {

using dsv3::testing::Entry;
using dsv3::testing::ErrorOf;
using dsv3::testing::ExpectBadInput;
using dsv3::testing::Parse;
using dsv3::testing::SafetensorsFile;

std::string OneTensor(std::string_view dtype, std::string_view shape, std::uint64_t bytes) {
  return SafetensorsFile("{" + Entry("a", dtype, shape, 0, bytes) + "}", bytes);
}

// A header of a tensor 'a', U8 [4], with `field` in the place of one of its fields.
std::string WithDtype(std::string_view field) {
  return SafetensorsFile(
      "{\"a\":{\"dtype\":" + std::string(field) + ",\"shape\":[4],\"data_offsets\":[0,4]}}", 4);
}
std::string WithShape(std::string_view field) {
  return SafetensorsFile(
      "{\"a\":{\"dtype\":\"U8\",\"shape\":" + std::string(field) + ",\"data_offsets\":[0,4]}}", 4);
}
std::string WithOffsets(std::string_view field) {
  return SafetensorsFile(
      "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + std::string(field) + "}}", 4);
}

std::vector<std::string> Kinds(const SafetensorsHeader& header) {
  std::vector<std::string> kinds;
  for (const Finding& finding : header.nonconformities) {
    EXPECT_EQ(finding.severity, Severity::kWarning);
    EXPECT_FALSE(finding.unreadable);
    EXPECT_EQ(finding.file, "m.safetensors");
    kinds.push_back(finding.kind);
  }
  return kinds;
}

TEST(SafetensorsTest, ReadsTensorsInFileOrder) {
  const std::string json =
      "{\"__metadata__\":{\"format\":\"pt\"}," + Entry("b", "BF16", "[2,3]", 4, 16) + "," +
      Entry("a", "F32", "[]", 0, 4) + "," + Entry("c", "F8_E4M3", "[0]", 16, 16) + "}    ";
  const std::string file = SafetensorsFile(json, 16);
  const SafetensorsHeader header = Parse(file);
  ASSERT_EQ(header.tensors.size(), 3U);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[0].dtype, Dtype::kF32);
  EXPECT_EQ(header.tensors[0].shape, Shape{});
  EXPECT_EQ(header.tensors[1].name, "b");
  EXPECT_EQ(header.tensors[1].shape, (Shape{2, 3}));
  EXPECT_EQ(header.tensors[1].begin, 4U);
  EXPECT_EQ(header.tensors[1].end, 16U);
  EXPECT_EQ(header.tensors[2].name, "c");
  EXPECT_EQ(header.metadata, (SafetensorsMetadata{{"format", "pt"}}));
  EXPECT_EQ(header.data_offset, 8 + json.size());
  EXPECT_EQ(header.file_bytes, file.size());
  EXPECT_EQ(header.digest, Xxh3Hex(std::as_bytes(std::span(file)).first(8 + json.size())));
}

TEST(SafetensorsTest, AHeaderWithoutTensorsIsLegal) {
  EXPECT_TRUE(Parse(SafetensorsFile("{}", 0)).tensors.empty());
  EXPECT_TRUE(Parse(SafetensorsFile("{\"__metadata__\":null}", 0)).metadata.empty());
}

TEST(SafetensorsTest, ZeroSizedTensorsAndScalarsAreLegal) {
  EXPECT_EQ(Parse(OneTensor("F32", "[]", 4)).tensors[0].end, 4U);
  EXPECT_EQ(Parse(OneTensor("F32", "[0]", 0)).tensors[0].end, 0U);
  EXPECT_EQ(Parse(OneTensor("F32", "[7,0,3]", 0)).tensors[0].shape, (Shape{7, 0, 3}));
  EXPECT_EQ(Parse(OneTensor("F4", "[4]", 2)).tensors[0].end, 2U);
  const std::string zeros = "{" + Entry("x", "U8", "[0]", 0, 0) + "," +
                            Entry("y", "U8", "[1]", 0, 1) + "," + Entry("z", "U8", "[0]", 0, 0) +
                            "}";
  EXPECT_EQ(Parse(SafetensorsFile(zeros, 1)).tensors.size(), 3U);
}

TEST(SafetensorsTest, RejectsFilesTooShortForALength) {
  ExpectBadInput([] { Parse(""); }, "m.safetensors: the file is empty");
  ExpectBadInput([] { Parse(std::string(7, '\0')); }, "has only 7 bytes", "download it again");
}

TEST(SafetensorsTest, RejectsAHeaderThatIsTooLong) {
  const auto with_length = [](std::uint64_t length) {
    std::string file = OneTensor("U8", "[4]", 4);
    std::memcpy(file.data(), &length, sizeof length);
    return file;
  };
  ExpectBadInput([&] { Parse(with_length(100'000'001)); },
                 "the header has 100.0 MB (100,000,001 bytes)",
                 "the format allows 100.0 MB (100,000,000 bytes)");
  ExpectBadInput([&] { Parse(with_length(std::uint64_t{1} << 63)); },
                 "the header has 9.2 EB (9,223,372,036,854,775,808 bytes)");
  ExpectBadInput([&] { Parse(with_length(~std::uint64_t{0})); },
                 "18,446,744,073,709,551,615 bytes");
  ExpectBadInput([&] { Parse(with_length(100'000'000)); }, "the file ends within its header",
                 "ends at byte 100000008");
  ExpectBadInput([&] { Parse(with_length(0)); }, "the header has 0 bytes");
}

TEST(SafetensorsTest, RejectsAFileThatIsCutOff) {
  std::string file = OneTensor("U8", "[4]", 4);
  file.pop_back();
  ExpectBadInput([&] { Parse(file); }, "the file is truncated", "so it lacks 1 byte at the end");
}

TEST(SafetensorsTest, RejectsOneByteTooMany) {
  const std::string file = OneTensor("U8", "[4]", 4) + "x";
  ExpectBadInput([&] { Parse(file); }, "so it has 1 byte too many at the end");
}

TEST(SafetensorsTest, EveryPrefixOfAFileIsAnError) {
  const std::string json = "{\"__metadata__\":{\"format\":\"pt\"}," +
                           Entry("a\\u00e9", "F32", "[2]", 0, 8) + "," +
                           Entry("b", "U8", "[3]", 8, 11) + "}  ";
  const std::string file = SafetensorsFile(json, 11);
  Parse(file);
  for (std::size_t length = 0; length < file.size(); ++length) {
    // A fresh block of exactly this size, so that a sanitizer sees a read beyond it.
    const auto copy = std::make_unique<char[]>(length);
    std::copy_n(file.data(), length, copy.get());
    ExpectBadInput([&] { Parse(std::string_view(copy.get(), length)); }, "m.safetensors: ");
  }
}

TEST(SafetensorsTest, RejectsWhatIsNotJson) {
  for (const std::string_view json :
       {"hello", "{", "[]", "null", "\"a\"", "{}{}", "{\"a\"}", "{},", "\xEF\xBB\xBF{}"}) {
    ExpectBadInput([&] { Parse(SafetensorsFile(json, 0)); }, "m.safetensors: the header is ",
                   "download it again");
  }
  ExpectBadInput([] { Parse(SafetensorsFile(std::string_view("{}\0\0", 4), 0)); },
                 "nothing may follow the value at byte 2 of the header");
}

TEST(SafetensorsTest, RejectsDeepNesting) {
  const std::string deep(100'000, '[');
  ExpectBadInput([&] { Parse(SafetensorsFile("{\"a\":" + deep, 0)); }, "malformed", "'a'");
  ExpectBadInput([&] { Parse(SafetensorsFile("{\"a\":{\"x\":" + deep, 0)); },
                 "nested deeper than 127 levels");
}

TEST(SafetensorsTest, RejectsInvalidUtf8) {
  ExpectBadInput([] { Parse(SafetensorsFile("{\"\xFF\":1}", 0)); },
                 "0xFF is not valid UTF-8 at byte 2 of the header");
}

TEST(SafetensorsTest, RejectsDuplicateNames) {
  const std::string twice =
      "{" + Entry("a", "U8", "[4]", 0, 4) + "," + Entry("a", "U8", "[4]", 4, 8) + "}";
  ExpectBadInput([&] { Parse(SafetensorsFile(twice, 8)); },
                 "tensor 'a' appears twice in the header");
  const std::string escaped =
      "{" + Entry("a", "U8", "[4]", 0, 4) + "," + Entry("\\u0061", "U8", "[4]", 0, 4) + "}";
  EXPECT_EQ(ErrorOf([&] { Parse(SafetensorsFile(escaped, 4)); }).place().tensor, "a");
}

TEST(SafetensorsTest, RejectsOverlappingOffsets) {
  const std::string json =
      "{" + Entry("a", "U8", "[4]", 0, 4) + "," + Entry("b", "U8", "[4]", 3, 7) + "}";
  const Error error = ErrorOf([&] { Parse(SafetensorsFile(json, 7)); });
  EXPECT_EQ(error.place().tensor, "b");
  EXPECT_EQ(error.message(),
            "m.safetensors: the header gives tensor 'b' the bytes [3, 7), which overlap the bytes "
            "[0, 4) of tensor 'a'; the file is damaged, download it again");
}

TEST(SafetensorsTest, RejectsHoles) {
  const std::string between =
      "{" + Entry("a", "U8", "[4]", 0, 4) + "," + Entry("b", "U8", "[4]", 5, 9) + "}";
  ExpectBadInput([&] { Parse(SafetensorsFile(between, 9)); }, "tensor 'b'", "a hole",
                 "the bytes [4, 5) before it belong to no tensor");
  ExpectBadInput([] { Parse(SafetensorsFile("{" + Entry("a", "U8", "[4]", 1, 5) + "}", 5)); },
                 "the bytes [0, 1) before it");
}

TEST(SafetensorsTest, RejectsOffsetsThatRunBackwards) {
  const std::string json =
      "{" + Entry("a", "U8", "[4]", 0, 4) + "," + Entry("b", "U8", "[0]", 4, 3) + "}";
  ExpectBadInput([&] { Parse(SafetensorsFile(json, 4)); }, "'b'", "end before they begin");
}

TEST(SafetensorsTest, RejectsALengthThatContradictsTheShape) {
  EXPECT_EQ(ErrorOf([] { Parse(OneTensor("BF16", "[64]", 256)); }).message(),
            "m.safetensors: tensor 'a' is BF16 [64], which needs 128 bytes, but the header gives "
            "it bytes [0, 256), which are 256 bytes; the file is damaged, download it again");
  ExpectBadInput([] { Parse(OneTensor("F4", "[3]", 2)); }, "12 bits do not fill whole bytes");
}

TEST(SafetensorsTest, RejectsNumbersThatAreNotWholeAndPlain) {
  for (const std::string_view number :
       {"-4", "4.0", "4e0", "-0", "0.5", "18446744073709551616", "\"4\"", "null"}) {
    const std::string text(number);
    ExpectBadInput([&] { Parse(WithShape("[" + text + "]")); }, "in tensor 'a'", "a whole number",
                   "'" + text + "'");
    ExpectBadInput([&] { Parse(WithOffsets("[0," + text + "]")); }, "in tensor 'a'",
                   "a whole number");
  }
  ExpectBadInput([] { Parse(WithShape("[04]")); }, "superfluous 0");
}

TEST(SafetensorsTest, RejectsFieldsOfTheWrongForm) {
  for (const std::string_view field : {"null", "4", "{}", "\"4\""}) {
    ExpectBadInput([&] { Parse(WithShape(field)); }, "in tensor 'a' an array is expected");
    ExpectBadInput([&] { Parse(WithOffsets(field)); }, "in tensor 'a' an array is expected");
  }
  for (const std::string_view field : {"[]", "[0]", "[0,4,4]"}) {
    ExpectBadInput([&] { Parse(WithOffsets(field)); }, "a pair of offsets is expected");
  }
  ExpectBadInput([] { Parse(WithDtype("8")); }, "in tensor 'a' a string is expected");
  for (const std::string_view field : {"{}", "{\"U8\":null,\"I8\":null}"}) {
    ExpectBadInput([&] { Parse(WithDtype(field)); }, "dtype is expected");
  }
  ExpectBadInput([] { Parse(WithDtype("{\"U8\":[]}")); }, "null is expected");
  ExpectBadInput([] { Parse(SafetensorsFile("{\"a\":null}", 0)); }, "an object is expected");
}

TEST(SafetensorsTest, RejectsMissingAndRepeatedFields) {
  const auto with = [](std::string_view fields) {
    return SafetensorsFile("{\"a\":{" + std::string(fields) + "}}", 4);
  };
  const std::string_view dtype = R"("dtype":"U8")";
  const std::string_view shape = R"("shape":[4])";
  const std::string_view offsets = R"("data_offsets":[0,4])";
  const auto join = [](auto... parts) {
    std::string text;
    ((text += (text.empty() ? "" : ",") + std::string(parts)), ...);
    return text;
  };
  ExpectBadInput([&] { Parse(with(join(shape, offsets))); }, "tensor 'a' has no dtype");
  ExpectBadInput([&] { Parse(with(join(dtype, offsets))); }, "tensor 'a' has no shape");
  ExpectBadInput([&] { Parse(with(join(dtype, shape))); }, "tensor 'a' has no data_offsets");
  for (const std::string_view field : {dtype, shape, offsets}) {
    ExpectBadInput([&] { Parse(with(join(dtype, shape, offsets, field))); },
                   "tensor 'a' has the field", "twice");
  }
}

TEST(SafetensorsTest, RejectsUnknownDtypes) {
  ExpectBadInput([] { Parse(WithDtype("\"F7\"")); }, "tensor 'a' has the unknown dtype 'F7'",
                 "newer version");
  ExpectBadInput([] { Parse(WithDtype("\"u8\"")); }, "unknown dtype 'u8'");
}

TEST(SafetensorsTest, RejectsOverflowInAShape) {
  ExpectBadInput([] { Parse(OneTensor("U8", "[18446744073709551615,2]", 0)); },
                 "tensor 'a' is U8 [18446744073709551615, 2], whose size overflows 64 bits");
  ExpectBadInput([] { Parse(OneTensor("U8", "[18446744073709551615,2,0]", 0)); }, "overflows");
  ExpectBadInput([] { Parse(OneTensor("U64", "[2305843009213693952]", 0)); }, "overflows");
  EXPECT_EQ(Parse(OneTensor("U8", "[0,18446744073709551615,2]", 0)).tensors.size(), 1U);
}

TEST(SafetensorsTest, RejectsOffsetsBeyondTheNumbers) {
  const std::string json =
      "{\"a\":{\"dtype\":\"U8\",\"shape\":[2305843009213693951],"
      "\"data_offsets\":[0,2305843009213693951]}}";
  ExpectBadInput([&] { Parse(SafetensorsFile(json, 0)); }, "the file is truncated");
  ExpectBadInput([] { Parse(WithOffsets("[0,18446744073709551615]")); }, "needs 4 bytes");
}

TEST(SafetensorsTest, RejectsMetadataThatIsNotAMapOfStrings) {
  for (const std::string_view metadata : {"[]", "1", "\"a\""}) {
    ExpectBadInput(
        [&] { Parse(SafetensorsFile("{\"__metadata__\":" + std::string(metadata) + "}", 0)); },
        "an object is expected");
  }
  ExpectBadInput([] { Parse(SafetensorsFile("{\"__metadata__\":{\"a\":1}}", 0)); },
                 "a string is expected");
  ExpectBadInput([] { Parse(SafetensorsFile("{\"__metadata__\":null,\"__metadata__\":null}", 0)); },
                 "__metadata__ appears twice");
}

TEST(SafetensorsTest, NamesWhatStandsInPlaceOfTheFile) {
  ExpectBadInput(
      [] {
        Parse("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5234139343\n");
      },
      "m.safetensors: it is a git-lfs pointer", "git lfs pull");
  for (const std::string_view page :
       {"<!DOCTYPE html><html>", "<html lang=\"en\">", "\n\n <HTML>   "}) {
    ExpectBadInput([&] { Parse(page); }, "it is an HTML page", "download the file again");
  }
  ExpectBadInput([] { Parse("<?xml version=\"1.0\"?><Error/>"); }, "it is an XML document");
  ExpectBadInput([] { Parse("PK\x03\x04\x14\x08\x08\x08"); }, "PyTorch checkpoint");
  ExpectBadInput([] { Parse("GGUF\x03rest"); }, "it is a GGUF file");
}

TEST(SafetensorsTest, ALengthThatLooksLikeTextIsNoPage) {
  // 0x3C is '<': a header of 60 bytes.
  std::string json = "{" + Entry("a", "U8", "[4]", 0, 4) + "}";
  json.resize(60, ' ');
  EXPECT_EQ(Parse(SafetensorsFile(json, 4)).tensors.size(), 1U);
}

TEST(SafetensorsTest, AcceptsNonconformingHeadersWithAWarning) {
  const auto kinds = [](std::string json, std::size_t bytes) {
    json.resize((json.size() + 7) / 8 * 8, ' ');
    return Kinds(Parse(SafetensorsFile(json, bytes)));
  };
  using Strings = std::vector<std::string>;
  const std::string plain = Entry("a", "U8", "[4]", 0, 4);
  EXPECT_EQ(kinds("{" + plain + "}", 4), Strings{});
  EXPECT_EQ(kinds(" {" + plain + "}", 4), Strings{"header-leading-space"});
  EXPECT_EQ(kinds("{\"a\":[\"U8\",[4],[0,4]]}", 4), Strings{"array-form-entry"});
  EXPECT_EQ(kinds(R"({"a":{"dtype":{"U8":null},"shape":[4],"data_offsets":[0,4]}})", 4),
            Strings{"dtype-as-object"});
  EXPECT_EQ(kinds(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":[{}]}})", 4),
            Strings{"unknown-tensor-field"});
  EXPECT_EQ(kinds("{" + Entry("", "U8", "[4]", 0, 4) + "}", 4), Strings{"empty-tensor-name"});
  EXPECT_EQ(kinds("{" + Entry("a\\u0000", "U8", "[4]", 0, 4) + "}", 4),
            Strings{"nul-in-tensor-name"});
  EXPECT_EQ(
      kinds("{" + Entry("a", "U8", "[1]", 0, 1) + "," + Entry("b", "BF16", "[1]", 1, 3) + "}", 3),
      Strings{"misaligned-tensor"});
  EXPECT_EQ(kinds(R"({"__metadata__":{"a":"1","b":"2","a":"3"}})", 0),
            Strings{"duplicate-metadata-key"});
  EXPECT_EQ(Kinds(Parse(SafetensorsFile("{} ", 0))), Strings{"unaligned-header"});
}

TEST(SafetensorsTest, TheLastOfTwoEqualMetadataKeysCounts) {
  const SafetensorsHeader header =
      Parse(SafetensorsFile(R"({"__metadata__":{"z":"0","a":"1","b":"2","\u0061":"3"}})", 0));
  EXPECT_EQ(header.metadata, (SafetensorsMetadata{{"z", "0"}, {"b", "2"}, {"a", "3"}}));
}

TEST(SafetensorsTest, CountsRepeatedNonconformitiesInOneFinding) {
  std::string json = "{";
  for (int i = 0; i < 5000; ++i) {
    json += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":[\"U8\",[0],[0,0]]";
  }
  const SafetensorsHeader header = Parse(SafetensorsFile(json + "}", 0));
  EXPECT_EQ(header.tensors.size(), 5000U);
  bool found = false;
  for (const Finding& finding : header.nonconformities) {
    if (finding.kind != "array-form-entry") continue;
    found = true;
    EXPECT_EQ(finding.tensor, "0");
    EXPECT_NE(finding.message.find("5000 times"), std::string::npos) << finding.message;
  }
  EXPECT_TRUE(found);
}

}  // namespace
}  // namespace dsv3::formats
