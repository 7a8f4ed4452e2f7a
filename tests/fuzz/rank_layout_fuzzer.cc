// An input is the text of a layout.json.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "formats/error.h"
#include "formats/rank_layout.h"
#include "formats/shape.h"
#include "tests/fuzz/require.h"

namespace {

using dsv3::formats::RankLayout;

void RequireSound(const RankLayout& layout) {
  DSV3_FUZZ_REQUIRE(layout.ranks.size() == layout.sizes.world_size);
  for (const auto& rank : layout.ranks) {
    for (const std::uint32_t file : rank.files) DSV3_FUZZ_REQUIRE(file < layout.files.size());
  }
  for (const auto& file : layout.files) {
    DSV3_FUZZ_REQUIRE(!file.name.empty() && file.name != "." && file.name != "..");
    DSV3_FUZZ_REQUIRE(file.name.find('/') == std::string::npos);
  }
  for (const auto& tensor : layout.tensors) {
    const auto elements = dsv3::formats::NumElements(tensor.shape);
    DSV3_FUZZ_REQUIRE(elements && dsv3::formats::NumBytes(tensor.dtype, tensor.shape));
    DSV3_FUZZ_REQUIRE(!tensor.files.empty() && tensor.files.back() < layout.files.size());
    std::uint64_t filled = 0;
    for (const auto& part : tensor.parts) {
      filled += (part.row_end - part.row_begin) * (part.col_end - part.col_begin);
      DSV3_FUZZ_REQUIRE(filled <= *elements);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const RankLayout layout = dsv3::formats::ParseRankLayout(text, "fuzzed");
    DSV3_FUZZ_REQUIRE(nlohmann::json::accept(text));
    RequireSound(layout);
    const std::string written = dsv3::formats::SerializeRankLayout(layout);
    const RankLayout again = dsv3::formats::ParseRankLayout(written, "written");
    DSV3_FUZZ_REQUIRE(dsv3::formats::SerializeRankLayout(again) == written);
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: "));
  }
  return 0;
}
