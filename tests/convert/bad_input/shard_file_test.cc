#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "tests/convert/bad_input/bad_input_test.h"
#include "tests/support/files.h"

// What may stand in a shard's place or in its header.
namespace dsv3::testing {
namespace {

constexpr const char* kShard = kTinyShard3;

struct BadShard {
  const char* name;
  // The file, from the one that it should be.
  std::function<std::string(const std::string& good)> content;
  std::vector<std::string> words;  // that the message must hold beside the file's name
};

void PrintTo(const BadShard& param, std::ostream* out) { *out << param.name; }

std::string Header(std::string_view header, std::size_t data_bytes = 0) {
  return SafetensorsFile(header, std::string(data_bytes, '\0'));
}

// A header for one U8 tensor "x" of `shape` and `offsets`, with 8 bytes of data.
std::string OneTensor(const std::string& shape, const std::string& offsets,
                      const std::string& dtype = "U8") {
  return Header(R"({"x":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
                    offsets + "}}",
                8);
}

std::string TwoTensors(const std::string& first, const std::string& second,
                       const std::string& second_name = "y") {
  return Header(R"({"x":{"dtype":"U8","shape":[4],"data_offsets":)" + first + R"(},")" +
                    second_name + R"(":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}",
                8);
}

const BadShard kBadShards[] = {
    {"Truncated",
     [](const std::string& good) { return good.substr(0, good.size() - 3); },
     {"truncated", "lacks 3 bytes at the end", "download"}},
    {"CutWithinItsHeader",
     [](const std::string& good) { return good.substr(0, 40); },
     {"ends within its header", "has 40 bytes", "download"}},
    {"OneByteTooMany",
     [](const std::string& good) { return good + 'x'; },
     {"1 byte too many", "download"}},
    {"Empty", [](const std::string&) { return ""; }, {"empty", "download"}},
    {"ShorterThanALength", [](const std::string&) { return "abc"; }, {"only 3 bytes", "download"}},
    {"HeaderLongerThanTheFile",
     [](const std::string& good) { return BytesOf<std::uint64_t>(good.size()) + good.substr(8); },
     {"ends within its header", "download"}},
    {"HeaderLengthZero",
     [](const std::string& good) { return BytesOf<std::uint64_t>(0) + good.substr(8); },
     {"0 bytes", "download"}},
    {"HeaderLength2To63",
     [](const std::string& good) {
       return BytesOf<std::uint64_t>(std::uint64_t{1} << 63) + good.substr(8);
     },
     {"9,223,372,036,854,775,808 bytes", "allows 100.0 MB (100,000,000 bytes)", "download"}},
    {"HeaderLengthWrapsAround",
     [](const std::string& good) { return BytesOf<std::uint64_t>(~std::uint64_t{7}) + good; },
     {"18,446,744,073,709,551,608 bytes", "allows 100.0 MB (100,000,000 bytes)", "download"}},
    {"HeaderLengthOneBeyondTheLimit",
     [](const std::string& good) { return BytesOf<std::uint64_t>(100'000'001) + good; },
     {"100,000,001 bytes", "allows 100.0 MB (100,000,000 bytes)"}},
    {"NotJson", [](const std::string&) { return Header("weights"); }, {"header", "download"}},
    {"NoObject", [](const std::string&) { return Header("[]"); }, {"header", "object"}},
    {"CutJson",
     [](const std::string&) { return Header(R"({"x":{"dtype":"U8","shape":[)"); },
     {"header", "download"}},
    {"DeepNesting",
     [](const std::string&) { return Header(R"({"x":)" + std::string(3'000'000, '[')); },
     {"header"}},
    {"DeepNestingInAnUnknownField",
     [](const std::string&) {
       std::string header = R"({"x":{"new":)";
       for (int i = 0; i < 500'000; ++i) header += R"({"a":)";
       return Header(header);
     },
     {"header"}},
    {"InvalidUtf8",
     [](const std::string&) { return Header("{\"\xC3\x28\":1}"); },
     {"UTF-8", "download"}},
    {"LoneSurrogate",
     [](const std::string&) { return Header(R"({"\ud800":1})"); },
     {"header", "download"}},
    {"DuplicateName",
     [](const std::string&) { return TwoTensors("[0,4]", "[4,8]", "x"); },
     {"'x'", "twice"}},
    {"DuplicateNameThroughAnEscape",
     [](const std::string&) { return TwoTensors("[0,4]", "[4,8]", "\\u0078"); },
     {"'x'", "twice"}},
    {"OverlappingOffsets",
     [](const std::string&) { return TwoTensors("[0,4]", "[3,7]"); },
     {"'y'", "[3, 7)", "overlap the bytes [0, 4) of tensor 'x'", "download"}},
    {"AHoleBetweenTensors",
     [](const std::string&) { return TwoTensors("[0,4]", "[5,9]"); },
     {"'y'", "hole", "[4, 5)", "download"}},
    {"AHoleBeforeTheFirst",
     [](const std::string&) { return TwoTensors("[1,5]", "[5,9]"); },
     {"'x'", "hole", "[0, 1)"}},
    {"EndBeforeBegin",
     [](const std::string&) { return OneTensor("[8]", "[8,0]"); },
     {"'x'", "[8, 0)"}},
    {"WrongLength",
     [](const std::string&) { return OneTensor("[9]", "[0,8]"); },
     {"'x'", "U8 [9]", "needs 9 bytes", "[0, 8)", "download"}},
    {"NegativeNumber",
     [](const std::string&) { return OneTensor("[-8]", "[0,8]"); },
     {"'x'", "-8"}},
    {"FractionalNumber",
     [](const std::string&) { return OneTensor("[8.0]", "[0,8]"); },
     {"'x'", "8.0"}},
    {"Exponent", [](const std::string&) { return OneTensor("[8e0]", "[0,8]"); }, {"'x'", "8e0"}},
    {"NumberBeyond64Bits",
     [](const std::string&) { return OneTensor("[8]", "[0,18446744073709551616]"); },
     {"'x'", "18446744073709551616"}},
    {"UnknownDtype",
     [](const std::string&) { return OneTensor("[8]", "[0,8]", "F9_E5M3"); },
     {"'x'", "F9_E5M3"}},
    {"ShapeOverflow",
     [](const std::string&) { return OneTensor("[4294967296,4294967296,4294967296]", "[0,8]"); },
     {"'x'", "overflow"}},
    {"BitsOverflow",
     [](const std::string&) { return OneTensor("[2305843009213693952]", "[0,8]", "F64"); },
     {"'x'", "overflow"}},
    {"HalfABytes",
     [](const std::string&) { return OneTensor("[15]", "[0,8]", "F4"); },
     {"'x'", "60 bits"}},
    {"NoDtype",
     [](const std::string&) { return Header(R"({"x":{"shape":[8],"data_offsets":[0,8]}})", 8); },
     {"'x'", "no dtype"}},
    {"GitLfsPointer",
     [](const std::string&) {
       return "version https://git-lfs.github.com/spec/v1\noid "
              "sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 5\n";
     },
     {"git-lfs pointer", "git lfs pull"}},
    {"HtmlPage",
     [](const std::string&) {
       return "\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n";
     },
     {"HTML page", "download"}},
    {"XmlError",
     [](const std::string&) {
       return R"(<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>)";
     },
     {"XML", "download"}},
};

class BadShardTest : public BadInputTest, public ::testing::WithParamInterface<BadShard> {};

TEST_P(BadShardTest, IsRefusedByItsName) {
  WriteInput();
  WriteFile(in() / kShard, GetParam().content(checkpoint_.ShardBytes(kShard)));
  const Error error = Refusal();
  EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
  EXPECT_EQ(error.place().file, kShard);
  EXPECT_THAT(error.message(), ::testing::StartsWith(std::string(kShard) + ": "));
  for (const std::string& word : GetParam().words) {
    EXPECT_THAT(error.message(), ::testing::HasSubstr(word));
  }
}

// The same file given by its path.
TEST_P(BadShardTest, IsRefusedAsALoneFile) {
  checkpoint_.has_index = false;
  WriteInput();
  WriteFile(in() / kShard, GetParam().content(checkpoint_.ShardBytes(kShard)));
  request_.input = in() / kShard;
  const Error error = Refusal();
  EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
  for (const std::string& word : GetParam().words) {
    EXPECT_THAT(error.message(), ::testing::HasSubstr(word));
  }
}

INSTANTIATE_TEST_SUITE_P(Shards, BadShardTest, ::testing::ValuesIn(kBadShards),
                         [](const auto& test) { return std::string(test.param.name); });

using ShardFileTest = BadInputTest;

TEST_F(ShardFileTest, CountsFurtherProblems) {
  WriteInput();
  WriteFile(in() / kTinyShard1, "");
  WriteFile(in() / kTinyShard3, "");
  ExpectBadInput(kTinyShard1, "empty", "1 more problem was found");
}

TEST_F(ShardFileTest, LeavesALargeHeaderOfHolesUnread) {
  WriteInput();
  WriteFile(in() / kShard, BytesOf<std::uint64_t>(99'000'000) + "{");
  std::filesystem::resize_file(in() / kShard, std::uint64_t{1} << 40);
  ExpectBadInput(kShard, "header", "download");
}

TEST_F(ShardFileTest, NeverShowsControlCharactersOfATensorName) {
  checkpoint_.Add(kShard, "\x1b[31mred.weight", formats::Dtype::kF8E4M3, {4, 8});
  WriteInput();
  ExpectBadInput(kShard, "\\x1b[31mred.weight", "no scale");
}

TEST_F(ShardFileTest, CutsATensorNameOfAMegabyte) {
  checkpoint_.Add(kShard, std::string(1'000'000, 'n'), formats::Dtype::kF8E4M3, {4, 8});
  WriteInput();
  ExpectBadInput(kShard, "nnnn...", "no scale");
}

TEST_F(ShardFileTest, CutsAShapeOfAHundredThousandDimensions) {
  checkpoint_.Add(kShard, "deep.weight", formats::Dtype::kF8E4M3, formats::Shape(100'000, 1));
  checkpoint_.AddScale(kShard, "deep.weight_scale_inv", formats::Dtype::kF32, {1, 1});
  WriteInput();
  ExpectBadInput(kShard, "'deep.weight'", "1, ... 100000 dimensions]", "expected two dimensions");
}

// They are legal, and SmallFp8Checkpoint has both.
TEST_F(ShardFileTest, TakesZeroSizeTensorsAndScalars) {
  WriteInput();
  EXPECT_EQ(Convert().outcome, convert::ConversionReport::Outcome::kConverted);
}

}  // namespace
}  // namespace dsv3::testing
