#include "formats/hash/xxh3.h"

#include <string>
#include <utility>

#include <gtest/gtest.h>
#include <xxhash.h>

#include "tests/support/files.h"

namespace dsv3::formats {
namespace {

using testing::AsBytes;
using testing::RandomBytes;

// The one-shot function of libxxhash proper: another way through the library than ours.
std::string OneShotHex(std::string_view text) {
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  char hex[33];
  std::snprintf(hex, sizeof hex, "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return hex;
}

TEST(Xxh3Test, EqualsXxhsum) {
  // xxhsum -H2
  EXPECT_EQ(Xxh3Hex(AsBytes("")), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(Xxh3Hex(AsBytes("abc")), "06b05ab6733a618578af5f94892f3950");
  EXPECT_EQ(Xxh3Hex(AsBytes(std::string(1000, 'x'))), "50a1af5a5f2dcf01c0a4877b962cba82");
}

TEST(Xxh3Test, EqualsTheOneShotFunctionAtEveryLength) {
  const std::string text = RandomBytes(3000, 1);
  for (std::size_t length = 0; length <= text.size(); ++length) {
    ASSERT_EQ(Xxh3Hex(AsBytes(text).first(length)),
              OneShotHex(std::string_view(text).substr(0, length)))
        << length;
  }
}

TEST(Xxh3Test, DoesNotDependOnWhereTheDataIsCut) {
  const std::string text = RandomBytes(5000, 2);
  const auto data = AsBytes(text);
  for (std::size_t cut = 0; cut <= data.size(); cut += 13) {
    Xxh3 hash;
    hash.Update(data.first(cut));
    hash.Update(data.subspan(cut));
    ASSERT_EQ(hash.Hex(), OneShotHex(text)) << cut;
  }
}

TEST(Xxh3Test, TellsTheDigestSoFarAndGoesOn) {
  Xxh3 hash;
  hash.Update(AsBytes("ab"));
  EXPECT_EQ(hash.Hex(), OneShotHex("ab"));
  hash.Update(AsBytes("c"));
  EXPECT_EQ(hash.Hex(), OneShotHex("abc"));
}

TEST(Xxh3Test, StartsAfreshAfterReset) {
  Xxh3 hash;
  hash.Update(AsBytes(RandomBytes(1000, 3)));
  hash.Reset();
  hash.Update(AsBytes("abc"));
  EXPECT_EQ(hash.Hex(), OneShotHex("abc"));
}

TEST(Xxh3Test, MovesInTheMiddleOfAStream) {
  const std::string text = RandomBytes(1000, 4);
  Xxh3 first;
  first.Update(AsBytes(text));
  Xxh3 second(std::move(first));
  second.Update(AsBytes(text));
  EXPECT_EQ(second.Hex(), OneShotHex(text + text));
}

}  // namespace
}  // namespace dsv3::formats
