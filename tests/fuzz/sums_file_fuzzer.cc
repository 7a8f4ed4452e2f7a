// An input is the text of SHA256SUMS.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "formats/sums_file.h"
#include "tests/fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const dsv3::formats::SumsFile sums = dsv3::formats::ParseSums(text);
  std::string written;
  for (const auto& entry : sums.entries) {
    DSV3_FUZZ_REQUIRE(entry.sha256.size() == 64);
    written += dsv3::formats::SumsLine(entry.name, entry.sha256);
  }
  const dsv3::formats::SumsFile again = dsv3::formats::ParseSums(written);
  DSV3_FUZZ_REQUIRE(again.bad_lines.empty());
  DSV3_FUZZ_REQUIRE(again.entries.size() == sums.entries.size());
  for (std::size_t i = 0; i < again.entries.size(); ++i) {
    DSV3_FUZZ_REQUIRE(again.entries[i].name == sums.entries[i].name);
    DSV3_FUZZ_REQUIRE(again.entries[i].sha256 == sums.entries[i].sha256);
  }
  return 0;
}
