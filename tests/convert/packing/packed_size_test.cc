// The sizes of packed tensors against what an order-0 coder can reach at best: the entropy of the
// planes, or of the differences, counted here.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "convert/packing/packed_file.h"
#include "formats/seek_table.h"
#include "tests/convert/packing/packed_fixture.h"
#include "tests/support/weight_samples.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using testing::BytesOf;
using testing::EntropyBytes;
using testing::OrderedDifferences;

constexpr std::size_t kRows = 1024;
constexpr std::size_t kCols = 2048;

// The size of a tensor's stream.
std::size_t StreamBytes(Dtype dtype, std::string_view raw, std::string_view base = {}) {
  std::size_t bytes = 0;
  std::size_t frames = 0;
  for (std::size_t begin = 0; begin < raw.size(); begin += kPackedChunkBytes) {
    const testing::PackedBytes packed =
        testing::PackChunk(dtype, raw.substr(begin, kPackedChunkBytes),
                           base.empty() ? base : base.substr(begin, kPackedChunkBytes));
    bytes += packed.bytes.size();
    frames += packed.frames.size();
  }
  return bytes + formats::SeekTableBytes(frames);
}

void ExpectAtMost(std::size_t bytes, double factor, double entropy) {
  EXPECT_LE(static_cast<double>(bytes), factor * entropy);
  EXPECT_GE(static_cast<double>(bytes), 0.98 * entropy) << "the entropy is counted wrongly";
}

class PackedSizeTest : public ::testing::Test {
 protected:
  static std::vector<std::uint8_t> E4M3(const std::vector<std::uint16_t>& values) {
    std::vector<float> floats;
    for (const std::uint16_t value : values) floats.push_back(testing::FromBF16(value));
    return testing::E4M3Of(floats, kCols);
  }

  std::vector<std::uint16_t> base_ = testing::BF16Of(testing::NormalWeights(kRows, kCols, 1));
  std::vector<std::uint16_t> tuned_ =
      testing::TunedOf(base_, testing::NormalWeights(kRows, kCols, 2));
};

TEST_F(PackedSizeTest, OfBF16) {
  ExpectAtMost(StreamBytes(Dtype::kBF16, BytesOf(base_)), 1.008,
               testing::PlaneEntropyBytes(base_, kPackedChunkBytes / 2));
}

TEST_F(PackedSizeTest, OfFp8) {
  const std::vector<std::uint8_t> codes = E4M3(base_);
  ExpectAtMost(StreamBytes(Dtype::kF8E4M3, BytesOf(codes)), 1.012, EntropyBytes(codes));
}

TEST_F(PackedSizeTest, OfAStepOfReinforcementLearning) {
  const std::vector<std::uint16_t> next = testing::StepOf(base_, 3);
  ExpectAtMost(StreamBytes(Dtype::kBF16, BytesOf(next), BytesOf(base_)), 1.12,
               EntropyBytes(OrderedDifferences(next, base_)));
}

TEST_F(PackedSizeTest, OfAFineTuneInBF16) {
  ExpectAtMost(StreamBytes(Dtype::kBF16, BytesOf(tuned_), BytesOf(base_)), 1.05,
               EntropyBytes(OrderedDifferences(tuned_, base_)));
}

TEST_F(PackedSizeTest, OfAFineTuneInFp8) {
  const std::vector<std::uint8_t> base = E4M3(base_);
  const std::vector<std::uint8_t> tuned = E4M3(tuned_);
  ExpectAtMost(StreamBytes(Dtype::kF8E4M3, BytesOf(tuned), BytesOf(base)), 1.12,
               EntropyBytes(OrderedDifferences(tuned, base)));
}

TEST_F(PackedSizeTest, OfATensorThatIsTheBase) {
  EXPECT_LE(StreamBytes(Dtype::kBF16, BytesOf(base_), BytesOf(base_)), base_.size() / 10000);
}

}  // namespace
}  // namespace dsv3::convert
