#include "formats/json/json_writer.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include <gtest/gtest.h>

namespace dsv3::formats {
namespace {

constexpr std::string_view kOddKey = "é\"\\\n\x01\x7F\u2028😀";

std::string Sample(JsonWriter json) {
  json.BeginObject();
  json.Key("a");
  json.Uint(1);
  json.Key("b");
  json.BeginArray();
  json.EndArray();
  json.Key("c");
  json.BeginObject();
  json.EndObject();
  json.Key("d");
  json.BeginArray();
  json.Uint(1);
  json.Int(-2);
  json.Double(3.5);
  json.EndArray();
  json.Key("e");
  json.BeginObject();
  json.Key("f");
  json.Null();
  json.Key("g");
  json.BeginArray();
  json.Bool(true);
  json.Bool(false);
  json.EndArray();
  json.EndObject();
  json.Key(kOddKey);
  json.String("\b\f\r\t/");
  json.EndObject();
  return json.Take();
}

// The expected texts are what Python's json.dumps gives for the same value.

TEST(JsonWriterTest, WritesCompactJsonLikePython) {
  EXPECT_EQ(Sample(JsonWriter(0)),
            "{\"a\":1,\"b\":[],\"c\":{},\"d\":[1,-2,3.5],\"e\":{\"f\":null,\"g\":[true,false]},"
            "\"é\\\"\\\\\\n\\u0001\x7F\u2028😀\":\"\\b\\f\\r\\t/\"}");
}

TEST(JsonWriterTest, WritesIndentedJsonLikePython) {
  EXPECT_EQ(
      Sample(JsonWriter(2)),
      "{\n  \"a\": 1,\n  \"b\": [],\n  \"c\": {},\n  \"d\": [\n    1,\n    -2,\n    3.5\n  ],\n"
      "  \"e\": {\n    \"f\": null,\n    \"g\": [\n      true,\n      false\n    ]\n  },\n"
      "  \"é\\\"\\\\\\n\\u0001\x7F\u2028😀\": \"\\b\\f\\r\\t/\"\n}");
}

TEST(JsonWriterTest, WritesAsciiLikePython) {
  const std::string text = Sample(JsonWriter(2, JsonWriter::Charset::kAscii));
  EXPECT_NE(text.find(R"("\u00e9\"\\\n\u0001\u007f\u2028\ud83d\ude00": "\b\f\r\t/")"),
            std::string::npos)
      << text;
}

TEST(JsonWriterTest, WritesDoublesLikePython) {
  const std::pair<double, std::string_view> cases[] = {
      {0.0, "0.0"},
      {-0.0, "-0.0"},
      {1.0, "1.0"},
      {0.1, "0.1"},
      {1e15, "1000000000000000.0"},
      {9999999999999998.0, "9999999999999998.0"},
      {1e16, "1e+16"},
      {123456789012345680.0, "1.2345678901234568e+17"},
      {1e22, "1e+22"},
      {1e-4, "0.0001"},
      {1e-5, "1e-05"},
      {1.5e-7, "1.5e-07"},
      {5e-324, "5e-324"},
      {1.7976931348623157e308, "1.7976931348623157e+308"},
      {1.0 / 3, "0.3333333333333333"},
      {-2.5, "-2.5"},
      {std::nan(""), "null"},
      {std::numeric_limits<double>::infinity(), "null"},
  };
  for (const auto& [value, expected] : cases) {
    JsonWriter json(0);
    json.Double(value);
    EXPECT_EQ(json.text(), expected);
  }
}

TEST(JsonWriterTest, WritesTheLimitsOfIntegers) {
  JsonWriter json(0);
  json.BeginArray();
  json.Uint(std::numeric_limits<std::uint64_t>::max());
  json.Int(std::numeric_limits<std::int64_t>::min());
  json.EndArray();
  EXPECT_EQ(json.text(), "[18446744073709551615,-9223372036854775808]");
}

TEST(JsonWriterTest, InsertsRawJsonAsItStands) {
  JsonWriter json(2);
  json.BeginObject();
  json.Key("config");
  json.Raw("{\"a\":  1e0}");
  json.Key("after");
  json.Uint(2);
  json.EndObject();
  EXPECT_EQ(json.text(), "{\n  \"config\": {\"a\":  1e0},\n  \"after\": 2\n}");
}

}  // namespace
}  // namespace dsv3::formats
