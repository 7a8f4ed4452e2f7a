#include "formats/npy.h"

#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/io/input_file.h"
#include "tests/formats/expect_error.h"
#include "tests/formats/support/npy_text.h"

namespace dsv3::formats {
namespace {

using ::testing::ElementsAre;
using testing::ExpectBadInput;
using ::testing::IsEmpty;
using testing::NpyDict;
using testing::NpyFile;
using testing::NpyText;

NpyHeader Read(std::string_view content) {
  const NpyFile file(content);
  return ReadNpyHeader(file.Open());
}

template <typename... Words>
void ExpectRefused(std::string_view content, const Words&... words) {
  SCOPED_TRACE(std::string(content));
  const auto read = [&] { Read(content); };
  ExpectBadInput(read, "a.npy: ", "; ", words...);
}

template <typename... Words>
void ExpectDictRefused(std::string_view dict, const Words&... words) {
  ExpectRefused(NpyText(dict, "12345678"), words...);
}

TEST(NpyHeaderTest, ReadsWhatNumPyWrote) {
  // numpy.save of an array of '>i2' in Fortran order.
  std::string text("\x93NUMPY\x01\x00v\x00", 10);
  text += "{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }";
  text += std::string(59, ' ') + "\n" + std::string("\0\0\0\3\0\1\0\4\0\2\0\5", 12);
  const NpyHeader header = Read(text);
  EXPECT_EQ(header.descr, ">i2");
  EXPECT_EQ(header.kind, NpyKind::kSigned);
  EXPECT_EQ(header.element_bytes, 2U);
  EXPECT_TRUE(header.big_endian);
  EXPECT_TRUE(header.fortran_order);
  EXPECT_THAT(header.shape, ElementsAre(2, 3));
  EXPECT_EQ(header.num_elements, 6U);
  EXPECT_EQ(header.data_offset, 128U);
}

TEST(NpyHeaderTest, ReadsEveryVersion) {
  for (const char major : {'\1', '\2', '\3'}) {
    const NpyHeader header = Read(NpyText(NpyDict("<f4", "(2,)"), "12345678", major));
    EXPECT_EQ(header.kind, NpyKind::kFloat);
    EXPECT_THAT(header.shape, ElementsAre(2));
  }
}

TEST(NpyHeaderTest, ReadsEveryDtype) {
  for (const std::string_view type :
       {"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}) {
    const auto bytes = static_cast<unsigned>(type[1] - '0');
    for (const char order : {'<', '>', '|'}) {
      if (order == '|' && bytes > 1) continue;
      const std::string descr = order + std::string(type);
      const NpyHeader header = Read(NpyText(NpyDict(descr, "()"), std::string(bytes, 'x')));
      EXPECT_EQ(header.descr, descr);
      EXPECT_EQ(header.element_bytes, bytes);
      EXPECT_EQ(header.big_endian, order == '>');
      EXPECT_EQ(header.kind, type[0] == 'i'   ? NpyKind::kSigned
                             : type[0] == 'u' ? NpyKind::kUnsigned
                                              : NpyKind::kFloat);
    }
  }
}

TEST(NpyHeaderTest, ReadsOtherWaysToWriteTheSameDict) {
  const auto shape_of = [](std::string_view dict) { return Read(NpyText(dict, "12345678")).shape; };
  EXPECT_THAT(shape_of(R"({"shape":(4,2),"fortran_order":False,"descr":"|u1"})"),
              ElementsAre(4, 2));
  EXPECT_THAT(shape_of(" { 'descr' : '<i8' , 'fortran_order' : False , 'shape' : ( ) } \n"),
              IsEmpty());
  EXPECT_THAT(shape_of(NpyDict("<i2", "(2L, 2L)")), ElementsAre(2, 2));  // of Python 2
  EXPECT_THAT(Read(NpyText(NpyDict("<i2", "(0, 7)"))).shape, ElementsAre(0, 7));
}

TEST(NpyHeaderTest, RefusesEveryPrefixAndOneByteMore) {
  const std::string text = NpyText(NpyDict("<f4", "(2, 1)"), "12345678", 2);
  for (std::size_t bytes = 0; bytes < text.size(); ++bytes) {
    ExpectRefused(text.substr(0, bytes));
  }
  ExpectRefused("", "it is empty");
  ExpectRefused(text.substr(0, 3), "ends after 3 bytes, before its header");
  ExpectRefused(text.substr(0, 9), "ends after 9 bytes, before its header");
  ExpectRefused(text.substr(0, 40), "its header ends at byte", "the file has 40 bytes", "cut off");
  ExpectRefused(text.substr(0, text.size() - 1), "its shape [2, 1] of dtype '<f4' ends at byte",
                "cut off");
  ExpectRefused(text + "x", "its shape [2, 1] of dtype '<f4' ends at byte", "one call");
}

TEST(NpyHeaderTest, RefusesOtherFiles) {
  ExpectRefused("1 2 3 4 5 6 7 8\n", "does not begin with \\x93NUMPY");
  ExpectRefused("PK\x03\x04 and more of it", "zip archive", ".npz");
  ExpectRefused("\x80\x04\x95 and more of it", "pickle");
  ExpectRefused("version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer");
}

TEST(NpyHeaderTest, RefusesOtherVersionsAndLongHeaders) {
  ExpectRefused(NpyText(NpyDict("<f4", "()"), "1234", 4), "version", "4.0", "3.0 are read");
  ExpectRefused(NpyText(NpyDict("<f4", "()"), "1234", 0), "version", "0.0");
  std::string minor = NpyText(NpyDict("<f4", "()"), "1234");
  minor[7] = 1;
  ExpectRefused(minor, "version", "1.1");
  ExpectRefused(NpyText(NpyDict("<f4", "()") + std::string(kMaxNpyHeaderBytes, ' '), "1234", 2),
                "its header has", "at most 65.5 kB");
}

TEST(NpyHeaderTest, RefusesOtherDtypes) {
  for (const char* descr : {"|O", "O", "object"}) {
    ExpectDictRefused(NpyDict(descr, "(1,)"), "pickled Python objects", "numpy.int64");
  }
  for (const char* descr : {"|b1", "<c8", "<U4", "|S8", "<M8[s]", "<f16", "|f4", "|i2", "=f4", "f4",
                            "<f1", "<i3", "", "<f4 "}) {
    ExpectDictRefused(NpyDict(descr, "(1,)"), "its dtype is '" + std::string(descr) + "'",
                      "integers of 1, 2, 4 and 8 bytes");
  }
  ExpectDictRefused(NpyDict("<V2", "(4,)"), "ml_dtypes", ".astype(numpy.float32)");
  for (const char* descr : {"[('a', '<f4'), ('b', '<i4')]", "('<f4', (2,))"}) {
    ExpectDictRefused("{'descr': " + std::string(descr) + ", 'fortran_order': False, 'shape': ()}",
                      "records or sub-arrays", "one field");
  }
}

TEST(NpyHeaderTest, RefusesOtherKeys) {
  ExpectDictRefused("{'fortran_order': False, 'shape': ()}", "no key 'descr'");
  ExpectDictRefused("{'descr': '<f4', 'shape': ()}", "no key 'fortran_order'");
  ExpectDictRefused("{'descr': '<f4', 'fortran_order': False}", "no key 'shape'");
  ExpectDictRefused("{}", "no key 'descr'");
  ExpectDictRefused("{'order': 1}", "the key 'order', which");
  ExpectDictRefused("{'descr': '<f4', 'descr': '<f4'}", "the key 'descr' twice");
  ExpectDictRefused("{'shape': (), 'shape': ()}", "the key 'shape' twice");
  ExpectDictRefused("{'fortran_order': True, 'fortran_order': True}",
                    "the key 'fortran_order' twice");
}

TEST(NpyHeaderTest, RefusesOtherShapes) {
  ExpectDictRefused(NpyDict("<f4", "(2)"), "a number in parentheses");
  ExpectDictRefused(NpyDict("<f4", "(-2,)"), "a negative dimension");
  ExpectDictRefused(NpyDict("<f4", "(99999999999999999999,)"), "a dimension beyond 64 bits");
  ExpectDictRefused(NpyDict("<f4", "(02,)"), "without leading zeros");
  ExpectDictRefused(NpyDict("<f4", "(2.0,)"), "',' or ')'", "found '.0,)");
  ExpectDictRefused(NpyDict("<f4", "(2 1)"), "',' or ')'");
  ExpectDictRefused(NpyDict("<f4", "(,)"), "a dimension is expected");
  ExpectDictRefused(NpyDict("<f4", "[2]"), "'(' is expected");
  ExpectDictRefused(NpyDict("<f4", "(4294967296, 4294967296)"), "64 bits can count");
  ExpectDictRefused(NpyDict("<f4", "(9223372036854775807,)"), "64 bits can count");
  ExpectDictRefused(NpyDict("<f8", "(2305843009213693951,)"), "64 bits can count");
  ExpectRefused(NpyText(NpyDict("<i8", "(1L,)"), "12345678", 3), "',' or ')'");
  std::string shape = "(";
  for (std::size_t i = 0; i < kMaxNpyDimensions; ++i) shape += "1,";
  EXPECT_EQ(Read(NpyText(NpyDict("<i8", shape + ")"), "12345678")).shape.size(), kMaxNpyDimensions);
  ExpectDictRefused(NpyDict("<i8", shape + "1)"), "more than 64 dimensions");
}

TEST(NpyHeaderTest, RefusesWhatIsNoDictOfNumPy) {
  ExpectDictRefused("", "'{' is expected", "found the end of the header");
  ExpectDictRefused("[1]", "'{' is expected", "at byte 0", "found '[1]'");
  ExpectDictRefused("{", "a key in quotes is expected");
  ExpectDictRefused("{,}", "a key in quotes is expected");
  ExpectDictRefused("{descr: 1}", "a key in quotes is expected");
  ExpectDictRefused("{'descr'}", "':' is expected");
  ExpectDictRefused("{'descr': '<f4}", "ends with its quote");
  ExpectDictRefused("{'descr': '<f\\x34'}", "without escapes");
  ExpectDictRefused("{'descr': 4}", "a dtype in quotes is expected");
  ExpectDictRefused("{'descr': '<f4' 'shape': ()}", "',' or '}' is expected");
  ExpectDictRefused("{'fortran_order': 0}", "True or False is expected");
  ExpectDictRefused("{'fortran_order': Falsehood}", "',' or '}' is expected");
  ExpectDictRefused("{'shape': __import__('os')}", "'(' is expected");
  ExpectDictRefused(NpyDict("<f4", "(2,)") + "#", "spaces to the end of the header");
  ExpectDictRefused(NpyDict("<f4", "(2,)") + std::string(1, '\0'), "spaces to the end", "\\x00");
}

}  // namespace
}  // namespace dsv3::formats
