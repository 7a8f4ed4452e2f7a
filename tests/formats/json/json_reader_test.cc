#include "formats/json/json_reader.h"

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "tests/formats/expect_error.h"

namespace dsv3::formats {
namespace {

using dsv3::testing::ErrorOf;
using dsv3::testing::ExpectBadInput;

constexpr JsonSource kSource = {.file = "f.json", .part = "the file", .advice = "correct it"};

std::string_view ReadAll(std::string_view text) {
  JsonReader reader(text, kSource);
  const std::string_view value = reader.SkipValue();
  reader.End();
  return value;
}

std::string ReadString(std::string_view text) {
  JsonReader reader(text, kSource);
  std::string value(reader.String());
  reader.End();
  return value;
}

std::uint64_t ReadUint(std::string_view text) {
  JsonReader reader(text, kSource);
  const std::uint64_t value = reader.Uint();
  reader.End();
  return value;
}

TEST(JsonReaderTest, AcceptsWhatTheGrammarAllows) {
  for (const std::string_view text :
       {"null", "true", "false", "0", "-0", "-0.0", "1.5e+10", "1E-2", "18446744073709551616",
        "1e-999", "0e99999999999", "\"\"", "[]", "{}", "[1,[2,{\"a\":[]}]]",
        "{\"a\":1,\"a\":2,\"\":{}}", "\"\x7F\""}) {
    EXPECT_EQ(ReadAll(text), text);
    EXPECT_EQ(ReadAll(" \t\r\n" + std::string(text) + "\n "), text);
  }
}

TEST(JsonReaderTest, RejectsWhatTheGrammarDoesNotAllow) {
  for (const std::string_view text :
       {"",         " ",         "nul",      "nulL",      "True",
        "tru",      "[",         "]",        "{",         "}",
        "[1",       "[1,",       "[1,]",     "[,1]",      "[1 2]",
        "{\"a\"}",  "{\"a\":}",  "{\"a\":1", "{\"a\":1,", "{\"a\":1,}",
        "{,}",      "{a:1}",     "{1:1}",    "{\"a\" 1}", "{\"a\":1 \"b\":2}",
        "[1}",      "{\"a\":1]", "1 2",      "[]]",       "01",
        "-",        "-01",       "+1",       ".5",        "5.",
        "1.e3",     "1e",        "1e+",      "0x1",       "NaN",
        "Infinity", "-Infinity", "'a'",      "\"",        "\"a",
        "\"\\\"",   "\"\t\"",    "\"\n\"",   "1,",        "\f1"}) {
    ExpectBadInput([&] { ReadAll(text); }, "f.json: the file is not valid JSON: ", "; correct it");
  }
  ExpectBadInput([] { ReadAll(std::string_view("\"\0\"", 3)); }, "control character", "at byte 1");
}

TEST(JsonReaderTest, ReadsPythonsNumbersWhereTheyAreAllowed) {
  const std::string text = R"({"a": [NaN, -Infinity,Infinity], "b": -1})";
  const auto read = [](std::string_view json) {
    JsonReader reader(json, kSource);
    reader.AllowPythonNumbers(true);
    const std::string value(reader.SkipValue());
    reader.End();
    return value;
  };
  EXPECT_EQ(read(text), text);
  for (const std::string_view bad :
       {"Nan", "nan", "inf", "Inf", "+Infinity", "-NaN", "NaN1", "Infinityx", "-", "-I", "N"}) {
    ExpectBadInput([&] { read(bad); }, "f.json: the file is not valid JSON: ", "at byte");
  }
  JsonReader reader("Infinity", kSource);
  reader.AllowPythonNumbers(true);
  ExpectBadInput([&] { reader.Uint(); }, "a whole number", "instead of 'Infinity'");
}

TEST(JsonReaderTest, UnescapesStrings) {
  EXPECT_EQ(ReadString(R"("\"\\\/\b\f\n\r\t")"), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(ReadString(R"("\u0061\u00e9\u20AC\uD83D\uDE00\uffff")"), "aé€😀\uffff");
  EXPECT_EQ(ReadString(R"("\u0000x")"), std::string("\0x", 2));
  EXPECT_EQ(ReadString("\"0123456789abcdef\\n0123456789abcdef\""),
            "0123456789abcdef\n0123456789abcdef");
}

TEST(JsonReaderTest, StringsWithoutEscapesAreViewsOfTheText) {
  const std::string_view text = "\"plain é\"";
  JsonReader reader(text, kSource);
  const std::string_view value = reader.String();
  EXPECT_EQ(value.data(), text.data() + 1);
  EXPECT_EQ(value, "plain é");
}

TEST(JsonReaderTest, FindsTheEndOfAStringAtEveryAlignment) {
  for (std::size_t length = 0; length < 40; ++length) {
    const std::string content(length, 'x');
    EXPECT_EQ(ReadString("\"" + content + "\""), content);
    EXPECT_EQ(ReadString("\"" + content + "\\\\" + content + "\""), content + "\\" + content);
    ExpectBadInput([&] { ReadString("\"" + content + "\x1F" + content + "\""); },
                   "control character", "at byte " + std::to_string(length + 1) + " ");
    ExpectBadInput([&] { ReadString("\"" + content); }, "a string is not closed at byte 0 ");
  }
}

TEST(JsonReaderTest, RejectsBadEscapesAndLoneSurrogates) {
  for (const std::string_view text : {R"("\x")", R"("\U0041")", R"("\ ")"}) {
    ExpectBadInput([&] { ReadString(text); }, "an unknown escape", "at byte 1 ");
  }
  for (const std::string_view text :
       {R"("\u12")", R"("\u12g4")", R"("\u+123")", R"("\u 123")", "\"\\u"}) {
    ExpectBadInput([&] { ReadString(text); }, "four hexadecimal digits", "at byte 1 ");
  }
  for (const std::string_view text : {R"("\ud800")", R"("\udc00")", R"("\ud800x")", R"("\ud800\n")",
                                      R"("\ud800\ud800")", R"("\ud800\u0041")"}) {
    ExpectBadInput([&] { ReadString(text); }, "half of a surrogate pair is alone", "at byte 1 ");
  }
}

TEST(JsonReaderTest, RejectsInvalidUtf8AndByteOrderMarks) {
  ExpectBadInput([] { ReadAll("\"ab\xFF\""); }, "0xFF is not valid UTF-8 at byte 3 of the file");
  ExpectBadInput([] { ReadAll("\"\xED\xA0\x80\""); }, "0xED is not valid UTF-8");
  ExpectBadInput([] { ReadAll("\xEF\xBB\xBF{}"); }, "a byte order mark is not allowed",
                 "save the file as UTF-8 without a byte order mark");
}

// What an editor or a shell makes of a sound text is no damage.
TEST(JsonReaderTest, NamesUtf16AndComments) {
  using namespace std::string_view_literals;
  for (const std::string_view text :
       {"\xFF\xFE{\0}\0"sv, "\xFE\xFF\0{\0}"sv, "{\0}\0"sv, "\0{\0}"sv}) {
    ExpectBadInput([&] { ReadAll(text); },
                   "UTF-16 text, as an editor or PowerShell saves it, begins at byte 0",
                   "convert it with iconv -f UTF-16");
  }
  // A hole.
  ExpectBadInput([] { ReadAll("{\0\0\0\0"sv); }, "a key or '}' is expected");
  for (const std::string_view text :
       {"// mine\n{}", "/* mine */ {}", "# mine\n{}", "{ // mine\n}", "{\"a\": // mine\n1}",
        "{\"a\": 1, // mine\n\"b\": 2}", "{\"a\": 1 // mine\n}", "[1, # mine\n2]", "{} // mine"}) {
    ExpectBadInput([&] { ReadAll(text); }, "a comment is not allowed at byte ",
                   "remove the comments from the file");
  }
  EXPECT_EQ(ReadAll("{\"a\": \"// # /*\"}"), "{\"a\": \"// # /*\"}");
}

TEST(JsonReaderTest, LimitsTheDepth) {
  const auto nested = [](int depth) {
    return std::string(static_cast<std::size_t>(depth), '[') +
           std::string(static_cast<std::size_t>(depth), ']');
  };
  EXPECT_EQ(ReadAll(nested(127)).size(), 254U);
  ExpectBadInput([&] { ReadAll(nested(128)); }, "nested deeper than 127 levels", "at byte 127 ");
  ExpectBadInput([&] { ReadAll(std::string(1'000'000, '[')); }, "nested deeper");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  ExpectBadInput([&] { ReadAll(objects); }, "nested deeper");
}

TEST(JsonReaderTest, UintTakesPlainWholeNumbersOnly) {
  EXPECT_EQ(ReadUint("0"), 0U);
  EXPECT_EQ(ReadUint("18446744073709551615"), std::numeric_limits<std::uint64_t>::max());
  for (const std::string_view text :
       {"4.0", "4e0", "4E0", "-0", "-1", "18446744073709551616", "99999999999999999999999", "0.5",
        "\"4\"", "null", "true", "[4]", "{}"}) {
    ExpectBadInput([&] { ReadUint(text); }, "malformed", "a whole number from 0 to", "at byte 0 ");
  }
  ExpectBadInput([] { ReadUint("04"); }, "superfluous 0");
}

TEST(JsonReaderTest, RejectsNumbersTooLargeForADouble) {
  for (const std::string& text :
       {std::string("1e999"), std::string("-1e309"), std::string("1.5E+400"), std::string(330, '9'),
        std::string("0.001e400"), "1e" + std::string(30, '9')}) {
    ExpectBadInput([&] { ReadAll(text); }, "a number is too large");
  }
  const std::string tiny = "0." + std::string(400, '0') + "1e10";
  EXPECT_EQ(ReadAll(tiny), tiny);
  EXPECT_EQ(ReadAll(std::string("1e-") + std::string(30, '9')).size(), 33U);
}

TEST(JsonReaderTest, WalksObjectsAndArrays) {
  JsonReader reader(R"({"a":[1, 2],"b\n":{},"c":null})", kSource);
  reader.BeginObject();
  EXPECT_EQ(reader.NextMember(), "a");
  EXPECT_EQ(reader.key_offset(), 1U);
  reader.BeginArray();
  ASSERT_TRUE(reader.NextElement());
  EXPECT_EQ(reader.Uint(), 1U);
  ASSERT_TRUE(reader.NextElement());
  EXPECT_EQ(reader.Uint(), 2U);
  EXPECT_FALSE(reader.NextElement());
  EXPECT_EQ(reader.NextMember(), "b\n");
  reader.BeginObject();
  EXPECT_EQ(reader.NextMember(), std::nullopt);
  EXPECT_EQ(reader.NextMember(), "c");
  EXPECT_EQ(reader.Peek(), JsonType::kNull);
  reader.Null();
  EXPECT_EQ(reader.NextMember(), std::nullopt);
  reader.End();
}

TEST(JsonReaderTest, ErrorsNameTheTensorAndWhatWasFound) {
  const std::string tensor = "model.norm\x1B";
  JsonReader reader("{\"a\": 4.5}", kSource);
  reader.SetTensor(&tensor);
  reader.BeginObject();
  reader.NextMember();
  const Error error = ErrorOf([&] { reader.Uint(); });
  EXPECT_EQ(error.place().file, "f.json");
  EXPECT_EQ(error.place().tensor, tensor);
  EXPECT_EQ(error.message(),
            "f.json: the file is malformed: in tensor 'model.norm\\x1b' a whole number from 0 to "
            "18446744073709551615 is expected instead of '4.5' at byte 6 of the file; correct it");
}

TEST(JsonReaderTest, EveryPrefixOfATextIsAnError) {
  const std::string text = R"({"a":[1,-2.5e3,"x\u00e9\n",true],"b":{"c":null}})";
  for (std::size_t length = 0; length < text.size(); ++length) {
    const std::string prefix = text.substr(0, length);
    ExpectBadInput([&] { ReadAll(prefix); }, "f.json: ");
  }
  EXPECT_EQ(ReadAll(text), text);
}

}  // namespace
}  // namespace dsv3::formats
