#include "convert/forward/token_ids.h"

#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "formats/io/file_system.h"
#include "tests/convert/support/conversion.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

using convert::ParseTokenIds;
using convert::ReadTokenFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TokenFileTest : public ::testing::Test {
 protected:
  std::filesystem::path Write(const std::string& content) const {
    WriteFile(dir_ / "ids", content);
    return dir_ / "ids";
  }
  // An array of NumPy's format with int64 elements.
  std::filesystem::path WriteArray(const std::string& shape, const std::vector<std::int64_t>& ids) {
    std::string header = "{'descr': '<i8', 'fortran_order': False, 'shape': " + shape + ", }";
    header.resize(117, ' ');
    header += '\n';
    std::string content("\x93NUMPY\x01\x00\x76\x00", 10);
    content += header;
    content.append(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(std::int64_t));
    return Write(content);
  }

  TempDir dir_;
};

TEST(TokenIdsTest, ParsesAList) {
  EXPECT_THAT(ParseTokenIds("1,2, 3", "--tokens"), ElementsAre(1, 2, 3));
  for (const char* const text : {"", "1,,2", "1,", "-1", "x", "1.5", "4294967296", "1 2"}) {
    const Error error = ErrorOf([&] { ParseTokenIds(text, "--tokens"); });
    EXPECT_THAT(error.message(), HasSubstr("--tokens-file"));
    EXPECT_EQ(error.code(), ErrorCode::kUsage) << text;
    EXPECT_THAT(error.message(), HasSubstr("--tokens: "));
  }
}

TEST_F(TokenFileTest, ReadsASequenceALine) {
  EXPECT_THAT(ReadTokenFile(Write("1, 2 3\r\n\n4\n")),
              ElementsAre(ElementsAre(1, 2, 3), ElementsAre(4)));
}

TEST_F(TokenFileTest, SaysTheLineOfWhatIsNoId) {
  const Error error = ErrorOf([&] { ReadTokenFile(Write("1\n2 -3\n")); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("line 2: '-3' is not a token id"));
  EXPECT_THAT(ErrorOf([&] { ReadTokenFile(Write("\n \n")); }).message(),
              HasSubstr("there are no token ids in it"));
  EXPECT_EQ(ErrorOf([&] { ReadTokenFile(dir_ / "nowhere"); }).code(), ErrorCode::kBadInput);
}

TEST_F(TokenFileTest, ReadsTheRowsOfAnArray) {
  EXPECT_THAT(ReadTokenFile(WriteArray("(2, 2)", {1, 2, 3, 4})),
              ElementsAre(ElementsAre(1, 2), ElementsAre(3, 4)));
  EXPECT_THAT(ReadTokenFile(WriteArray("(3,)", {1, 2, 3})), ElementsAre(ElementsAre(1, 2, 3)));
  struct Array {
    const char* shape;
    std::vector<std::int64_t> ids;
  };
  const std::vector<Array> refused = {{"(1,)", {-1}}, {"(1,)", {1LL << 32}}, {"(1, 1, 1)", {1}},
                                      {"()", {1}},    {"(0,)", {}},          {"(2, 0)", {}}};
  for (const Array& array : refused) {
    const Error error = ErrorOf([&] { ReadTokenFile(WriteArray(array.shape, array.ids)); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage) << array.shape;
  }
}

}  // namespace
}  // namespace dsv3::testing
