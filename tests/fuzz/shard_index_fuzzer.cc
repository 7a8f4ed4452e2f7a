// An input is the text of an index.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "formats/error.h"
#include "formats/shard_index.h"
#include "tests/fuzz/require.h"

namespace {

using dsv3::formats::ShardIndex;

void RequireSound(const ShardIndex& index) {
  DSV3_FUZZ_REQUIRE(!index.weight_map.empty());
  const auto& map = index.weight_map;
  for (std::size_t i = 0; i < map.size(); ++i) {
    DSV3_FUZZ_REQUIRE(map[i].second < index.files.size());
    DSV3_FUZZ_REQUIRE(i == 0 || map[i - 1].first < map[i].first);
  }
  for (std::size_t i = 0; i < index.files.size(); ++i) {
    const std::string framed = "/" + index.files[i] + "/";
    DSV3_FUZZ_REQUIRE(i == 0 || index.files[i - 1] < index.files[i]);
    DSV3_FUZZ_REQUIRE(framed.find("/../") == std::string::npos);
    DSV3_FUZZ_REQUIRE(framed.find("/./") == std::string::npos);
    DSV3_FUZZ_REQUIRE(framed.find("//") == std::string::npos);
    DSV3_FUZZ_REQUIRE(framed.find('\\') == std::string::npos);
    DSV3_FUZZ_REQUIRE(framed.find('\0') == std::string::npos);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const ShardIndex index = dsv3::formats::ParseShardIndex(std::string(text), "fuzzed");
    DSV3_FUZZ_REQUIRE(nlohmann::json::accept(text));
    RequireSound(index);
    const ShardIndex again =
        dsv3::formats::ParseShardIndex(dsv3::formats::SerializeShardIndex(index), "written");
    DSV3_FUZZ_REQUIRE(again.files == index.files);
    DSV3_FUZZ_REQUIRE(again.weight_map == index.weight_map);
    DSV3_FUZZ_REQUIRE(again.total_size == index.total_size);
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: "));
  }
  return 0;
}
