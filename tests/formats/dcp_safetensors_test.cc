#include "formats/dcp_safetensors.h"

#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/formats/expect_error.h"

namespace dsv3::formats {
namespace {

using ::testing::ElementsAre;
using testing::ExpectBadInput;

// The header of rank 3 of 4, whose part of "b" is empty.
SafetensorsHeader Header(const std::string& list) {
  SafetensorsHeader header;
  header.tensors = {
      {.name = "a", .dtype = Dtype::kF32, .shape = {4, 3}, .begin = 0, .end = 48},
      {.name = "b", .dtype = Dtype::kF32, .shape = {0, 2}, .begin = 48, .end = 48},
      {.name = "s", .dtype = Dtype::kF32, .shape = {}, .begin = 48, .end = 52},
  };
  header.metadata = {{"DCP_VERSION", "1.0"}, {"format", "pt"}, {"DCP_SHARDING_INFO", list}};
  return header;
}

constexpr std::string_view kA = R"("a": {"saved_offsets": [0, 6]})";
constexpr std::string_view kRest =
    R"(, "b": {"saved_offsets": [5, 0]}, "s": {"saved_offsets": []}})";

std::string List(std::string_view a) { return "{" + std::string(a) + std::string(kRest); }

template <typename... Words>
void ExpectRefused(const std::string& list, const Words&... words) {
  ExpectBadInput([&] { ReadDcpOffsets(Header(list), "shard"); }, "shard: ", words...);
}

TEST(DcpSafetensorsTest, ReadsOffsets) {
  const SafetensorsHeader header = Header(List(kA));
  EXPECT_TRUE(IsDcpShard(header));
  EXPECT_THAT(ReadDcpOffsets(header, "shard"), ElementsAre(Shape{0, 6}, Shape{5, 0}, Shape{}));
}

TEST(DcpSafetensorsTest, IgnoresWhatItDoesNotNeed) {
  const std::string list =
      List(R"("other": 5, "a": {"more": [1], "saved_offsets": [0, 6], "x": {}})");
  EXPECT_THAT(ReadDcpOffsets(Header(list), "shard"),
              ElementsAre(Shape{0, 6}, Shape{5, 0}, Shape{}));
}

TEST(DcpSafetensorsTest, RefusesOtherFiles) {
  SafetensorsHeader header = Header(List(kA));
  header.metadata[0].second = "2.0";
  ExpectBadInput([&] { ReadDcpOffsets(header, "shard"); },
                 "shard: its DCP_VERSION is '2.0', expected '1.0'", "another version of PyTorch");
  header.metadata.erase(header.metadata.begin());
  ExpectBadInput([&] { ReadDcpOffsets(header, "shard"); }, "its DCP_VERSION is missing");
  header.metadata.pop_back();
  EXPECT_FALSE(IsDcpShard(header));
  ExpectBadInput([&] { ReadDcpOffsets(header, "shard"); },
                 "its __metadata__ has no DCP_SHARDING_INFO", "save_distributed");
}

TEST(DcpSafetensorsTest, RefusesListsOfAnotherForm) {
  ExpectRefused("", "DCP_SHARDING_INFO");
  ExpectRefused("[]", "DCP_SHARDING_INFO is malformed");
  ExpectRefused(List(R"("a": [0, 6])"), "DCP_SHARDING_INFO is malformed");
  ExpectRefused(List(R"("a": {"saved_offsets": [0, -6]})"), "a whole number from 0");
  ExpectRefused(List(R"("a": {"saved_offsets": 6})"), "DCP_SHARDING_INFO is malformed");
  ExpectRefused(List(R"("a": {})"), "tensor 'a': it has no saved_offsets");
  ExpectRefused(List(R"("a": {"saved_offsets": [0, 6], "saved_offsets": [0, 6]})"),
                "tensor 'a': it has saved_offsets twice");
}

TEST(DcpSafetensorsTest, RefusesTensorsThatAreNotListedOnce) {
  ExpectRefused(List(R"("c": {"saved_offsets": [0, 6]})"),
                "tensor 'a': DCP_SHARDING_INFO does not say which part of it the file holds");
  ExpectRefused(List(std::string(kA) + ", " + std::string(kA)),
                "tensor 'a': DCP_SHARDING_INFO lists it twice");
}

TEST(DcpSafetensorsTest, RefusesOffsetsThatDoNotFitTheShape) {
  ExpectRefused(List(R"("a": {"saved_offsets": [6]})"),
                "tensor 'a': its shape is [4, 3], which does not fit its saved_offsets [6]");
  ExpectRefused(List(R"("a": {"saved_offsets": [0, 18446744073709551613]})"),
                "which does not fit its saved_offsets [0, 18446744073709551613]");
}

TEST(DcpSafetensorsTest, ParsesNames) {
  const auto name = ParseDcpShardName("shard-00002-model-00001-of-00003.safetensors").value();
  EXPECT_EQ(name.shard, 2U);
  EXPECT_EQ(name.file, 1U);
  EXPECT_EQ(name.num_files, 3U);
  EXPECT_EQ(ParseDcpShardName("shard-100000-model-00001-of-00001.safetensors")->shard, 100'000U);
  for (const std::string_view other :
       {"", "model-00001-of-00003.safetensors", "shard-00002-model-00001-of-00003.bin",
        "shard-00000-model-00001-of-00003.safetensors", "shard-2-model-1-of-3.safetensors",
        "shard-00002-model-00004-of-00003.safetensors",
        "shard-00002-model-00000-of-00003.safetensors",
        "shard-000002-model-00001-of-00003.safetensors",
        "shard-1234567890-model-00001-of-00003.safetensors",
        "xshard-00002-model-00001-of-00003.safetensors",
        "shard-00002-model-00001-of-00003.safetensors.partial"}) {
    EXPECT_FALSE(ParseDcpShardName(other)) << other;
  }
}

}  // namespace
}  // namespace dsv3::formats
