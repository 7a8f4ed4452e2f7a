#include "formats/shard_index.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/formats/expect_error.h"

namespace dsv3::formats {
namespace {

using dsv3::testing::ErrorOf;
using dsv3::testing::ExpectBadInput;

ShardIndex ParseText(std::string_view text) {
  return ParseShardIndex(std::string(text), std::string(kShardIndexName));
}

std::optional<std::uint64_t> TotalSize(std::string_view value) {
  return ParseText("{\"metadata\":{\"total_size\":" + std::string(value) +
                   "},\"weight_map\":{\"a\":\"f\"}}")
      .total_size;
}

TEST(ShardIndexTest, ReadsFilesAndTensorsSorted) {
  const ShardIndex index = ParseText(R"({"metadata": {"total_parameters": 3, "total_size": 24},
    "weight_map": {"b": "z.safetensors", "a": "sub/y.safetensors", "\u00e9": "z.safetensors"}, "more": [1]})");
  EXPECT_EQ(index.files, (std::vector<std::string>{"sub/y.safetensors", "z.safetensors"}));
  const std::vector<std::pair<std::string_view, std::uint32_t>> expected = {
      {"a", 0}, {"b", 1}, {"é", 1}};
  EXPECT_EQ(index.weight_map, expected);
  EXPECT_EQ(index.total_size, 24U);
}

TEST(ShardIndexTest, TakesTotalSizeOnlyWhereItIsAWholeNumber) {
  EXPECT_EQ(TotalSize("18446744073709551615"), 18446744073709551615U);
  EXPECT_EQ(TotalSize("1369062772000.0"), 1369062772000U);
  EXPECT_EQ(TotalSize("2.5e1"), 25U);
  for (const std::string_view value :
       {"1.5", "-1", "1e300", "18446744073709551616", "\"24\"", "null", "{}", "true"}) {
    EXPECT_EQ(TotalSize(value), std::nullopt) << value;
  }
  EXPECT_EQ(ParseText(R"({"metadata":null,"weight_map":{"a":"f"}})").total_size, std::nullopt);
  EXPECT_EQ(ParseText(R"({"weight_map":{"a":"f"}})").total_size, std::nullopt);
}

TEST(ShardIndexTest, RejectsWhatIsNoIndex) {
  ExpectBadInput([] { ParseText(""); },
                 "model.safetensors.index.json: the index is not valid JSON");
  ExpectBadInput([] { ParseText("[]"); }, "an object is expected");
  ExpectBadInput([] { ParseText("{}"); }, "there is no weight_map", "download it again");
  ExpectBadInput([] { ParseText(R"({"weight_map":[]})"); }, "an object is expected");
  ExpectBadInput([] { ParseText(R"({"weight_map":{}})"); }, "weight_map is empty");
  ExpectBadInput([] { ParseText(R"({"weight_map":{"a":1}})"); },
                 "in tensor 'a' a string is expected");
  ExpectBadInput([] { ParseText("{\"weight_map\":{\"\xFF\":\"f\"}}"); }, "not valid UTF-8");
  ExpectBadInput([] { ParseText(R"({"weight_map":{"a":"f"},"weight_map":{"a":"f"}})"); },
                 "weight_map appears twice");
  ExpectBadInput([] { ParseText("<!doctype html><title>Sign in"); }, "it is an HTML page");
  ExpectBadInput([] { ParseText("version https://git-lfs.github.com/spec/v1\n"); },
                 "git-lfs pointer");
  ExpectBadInput([] { ParseText("{\"weight_map\":" + std::string(100'000, '[')); }, "malformed");
  ExpectBadInput([] { ParseText("{\"x\":" + std::string(100'000, '[')); }, "nested deeper");
}

TEST(ShardIndexTest, RejectsATensorListedTwice) {
  ExpectBadInput([] { ParseText(R"({"weight_map":{"a":"f","b":"f","\u0061":"g"}})"); },
                 "tensor 'a' is listed twice, in 'f' and in 'g'");
}

TEST(ShardIndexTest, RejectsPathsThatLeaveTheDirectory) {
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"", "empty"},
      {"/etc/passwd", "absolute"},
      {"..", "leads out"},
      {"../x.safetensors", "leads out"},
      {"a/../../x", "leads out"},
      {"a/..", "leads out"},
      {"C:x.safetensors", "drive letter"},
      {"c:/x.safetensors", "drive letter"},
      {"a\\\\b", "backslash"},
      {"..\\\\x", "backslash"},
      {"a\\u0000b", "which holds a NUL"},
      {"a\\nb", "control character"},
      {"a//b", "'.' component"},
      {"./a", "'.' component"},
      {"a/", "'.' component"},
  };
  for (const auto& [path, words] : cases) {
    const std::string text = "{\"weight_map\":{\"t\":\"" + std::string(path) + "\"}}";
    const Error error = ErrorOf([&] { ParseText(text); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << path;
    EXPECT_EQ(error.place().tensor, "t");
    EXPECT_THAT(error.message(),
                ::testing::AllOf(::testing::HasSubstr("tensor 't' is said to be in"),
                                 ::testing::HasSubstr(words)));
  }
  ExpectBadInput([] { ParseText("{\"weight_map\":{\"t\":\"" + std::string(256, 'x') + "\"}}"); },
                 "longer than a file name");
  for (const std::string_view legal : {"...", "a..b", "..a/b", "é.safetensors", "a b"}) {
    EXPECT_EQ(ParseText("{\"weight_map\":{\"t\":\"" + std::string(legal) + "\"}}").files[0], legal);
  }
}

TEST(ShardIndexTest, ReportsTheFaultsOfEntriesWhereAskedTo) {
  Findings faults;
  const ShardIndex index = ParseShardIndex(
      R"({"metadata":{"total_size":"24"},"weight_map":{"a":"f","b":"../f","c":7,"d":"g",
          "e":"../f","\u0061":"g","g":["f"],"h":"/f"}})",
      "index", &faults);
  const std::vector<std::pair<std::string_view, std::uint32_t>> expected = {{"a", 0}, {"d", 1}};
  EXPECT_EQ(index.weight_map, expected);
  EXPECT_EQ(index.files, (std::vector<std::string>{"f", "g"}));
  std::vector<std::string> found;
  for (const Finding& fault : faults) {
    EXPECT_EQ(fault.severity, Severity::kError);
    EXPECT_EQ(fault.file, "index");
    EXPECT_THAT(fault.message, ::testing::StartsWith("index: "));
    found.push_back(fault.kind + " " + fault.tensor);
  }
  EXPECT_THAT(found, ::testing::ElementsAre("wrong-total-size ", "unsafe-shard-path b",
                                            "malformed-index-entry c", "malformed-index-entry g",
                                            "unsafe-shard-path h", "tensor-listed-twice a"));
  faults.clear();
  EXPECT_TRUE(ParseShardIndex(R"({"weight_map":{}})", "index", &faults).weight_map.empty());
  ParseShardIndex(R"({"metadata":{"total_size":null},"weight_map":{}})", "index", &faults);
  EXPECT_TRUE(faults.empty());
  ExpectBadInput([&] { ParseShardIndex("{", "index", &faults); }, "index: ");
}

TEST(ShardIndexTest, FindsTheShardOfATensor) {
  const ShardIndex index = ParseText(R"({"weight_map":{"a":"f","c":"g"}})");
  EXPECT_EQ(index.FindShard("a"), 0U);
  EXPECT_EQ(index.FindShard("c"), 1U);
  for (const std::string_view absent : {"", "b", "d"}) {
    EXPECT_EQ(index.FindShard(absent), std::nullopt);
  }
}

TEST(ShardIndexTest, EveryPrefixIsAnError) {
  const std::string text = R"({"metadata":{"total_size":24},"weight_map":{"a\n":"f","b":"g"}})";
  ParseText(text);
  for (std::size_t length = 0; length < text.size(); ++length) {
    ExpectBadInput([&] { ParseText(text.substr(0, length)); }, "model.safetensors.index.json: ");
  }
}

// Python: json.dumps({"metadata": ..., "weight_map": ...}, indent=2, sort_keys=True) + "\n".
TEST(ShardIndexTest, WritesTheFormOfTransformers) {
  ShardIndex index;
  index.files = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  index.weight_map = {{"a", 1}, {"é", 0}};
  index.total_size = 24;
  const std::string text = SerializeShardIndex(index);
  EXPECT_EQ(text,
            "{\n  \"metadata\": {\n    \"total_size\": 24\n  },\n  \"weight_map\": {\n"
            "    \"a\": \"model-00002-of-00002.safetensors\",\n"
            "    \"\\u00e9\": \"model-00001-of-00002.safetensors\"\n  }\n}\n");
  const ShardIndex again = ParseText(text);
  EXPECT_EQ(again.files, index.files);
  EXPECT_EQ(again.weight_map, index.weight_map);
  EXPECT_EQ(again.total_size, index.total_size);
}

}  // namespace
}  // namespace dsv3::formats
