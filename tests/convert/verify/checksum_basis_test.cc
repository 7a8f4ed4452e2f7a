#include "convert/verify/checksum_basis.h"

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/stream/file_digests.h"
#include "formats/dtype.h"
#include "formats/manifest.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using ::testing::ElementsAre;
using ::testing::Pair;

// Where tensors of 12 and 10 bytes lie in a file of so many bytes; nothing where they do not fit.
std::vector<std::pair<std::uint64_t, std::uint64_t>> Places(std::uint64_t file_bytes,
                                                            std::uint64_t alignment) {
  formats::ManifestTensor first;
  first.dtype = Dtype::kF32;
  first.shape = {3};
  formats::ManifestTensor second;
  second.dtype = Dtype::kBF16;
  second.shape = {5};
  ExpectedFile file;
  file.bytes = file_bytes;
  file.alignment = alignment;
  file.tensors = {&first, &second};
  std::vector<std::pair<std::uint64_t, std::uint64_t>> places;
  for (const DigestRange& range : file.Layout().value_or(std::vector<DigestRange>())) {
    places.emplace_back(range.begin, range.end);
  }
  return places;
}

TEST(ExpectedFileTest, TensorsLieBehindOneAnotherUpToTheEnd) {
  EXPECT_THAT(Places(100, 1), ElementsAre(Pair(78, 90), Pair(90, 100)));
  EXPECT_THAT(Places(22, 1), ElementsAre(Pair(0, 12), Pair(12, 22)));
  EXPECT_TRUE(Places(21, 1).empty());
}

// The data begin at 96, and the second tensor 32 bytes later; behind it may be zeros.
TEST(ExpectedFileTest, TensorsAreAligned) {
  for (const std::uint64_t zeros : {0U, 1U, 22U, 31U}) {
    EXPECT_THAT(Places(138 + zeros, 32), ElementsAre(Pair(96, 108), Pair(128, 138))) << zeros;
  }
  EXPECT_THAT(Places(42, 32), ElementsAre(Pair(0, 12), Pair(32, 42)));
  EXPECT_TRUE(Places(41, 32).empty());
  EXPECT_TRUE(Places(31, 32).empty());
}

}  // namespace
}  // namespace dsv3::convert
