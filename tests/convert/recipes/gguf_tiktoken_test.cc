#include "convert/recipes/gguf_tiktoken.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/base64.h"
#include "formats/error.h"
#include "tests/convert/support/conversion.h"

namespace dsv3::convert {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::string Lines(const std::vector<std::string>& tokens) {
  std::string text;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    text += formats::EncodeBase64(tokens[i]) + " " + std::to_string(i) + "\n";
  }
  return text;
}

TEST(Tiktoken, ReadsTokensAndRanks) {
  EXPECT_THAT(ParseTiktoken("YQ== 0\nYg== 1\n\nYWI= 5", 6, "t"),
              ElementsAre(Pair("a", 0U), Pair("b", 1U), Pair("ab", 5U)));
}

TEST(Tiktoken, NamesTheLineThatIsWrong) {
  const auto refusal = [](const std::string& text) {
    const Error error = testing::ErrorOf([&] { ParseTiktoken(text, 6, "tiktoken.model"); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    return error.message();
  };
  for (const char* const line : {"YQ=", "YQ==", "YQ== ", "YQ== x", "YQ== 1x", "YQ== -1", " 1",
                                 "?Q== 1", "YQ== 99999999999"}) {
    EXPECT_THAT(refusal(std::string("Yg== 0\n") + line + "\n"),
                HasSubstr("tiktoken.model: line 2 is not a token in base64 and a number"))
        << line;
  }
  EXPECT_THAT(refusal("YQ== 6\n"), HasSubstr("line 1 has the number 6, and config.json says "
                                             "vocab_size 6"));
  EXPECT_THAT(refusal("YQ== 0\nYQ== 1\n"), HasSubstr("line 2 has a token or a number"));
  EXPECT_THAT(refusal("YQ== 0\nYg== 0\n"), HasSubstr("line 2 has a token or a number"));
  EXPECT_THAT(refusal("\n"), HasSubstr("it has no tokens"));
}

TEST(Tiktoken, WritesBytesAsCharacters) {
  EXPECT_EQ(AsByteCharacters("a b\n\xC3"), "a\u0120b\u010A\u00C3");
  EXPECT_EQ(AsByteCharacters(std::string("\0\x7F\xAD", 3)), "\u0100\u0121\u0143");
}

TEST(Tiktoken, FindsTheTwoPartsOfEachToken) {
  // "abc" is "ab" and "c", since "ab" comes before "bc"; "bcd" is "bc" and "d"; "xyz" leaves three
  // parts, and has no merge.
  const TiktokenRanks ranks = ParseTiktoken(
      Lines({"a", "b", "c", "d", " ", "ab", "bc", "abc", "bcd", "xyz", " a", " abc"}), 100, "t");
  EXPECT_THAT(MergesOfTiktoken(ranks),
              ElementsAre("a b", "b c", "ab c", "bc d", "\u0120 a", "\u0120 abc"));
}

// A part may be merged only where its rank is below the token's own.
TEST(Tiktoken, MergesByLowerRanksAlone) {
  const TiktokenRanks ranks = ParseTiktoken(Lines({"a", "b", "c", "abc", "ab"}), 100, "t");
  EXPECT_THAT(MergesOfTiktoken(ranks), ElementsAre("a b"));
}

}  // namespace
}  // namespace dsv3::convert
