// The sizes of packed tensors against what an order-0 coder can reach at best: the entropy of the
// planes, or of the differences, counted here.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "convert/packing/packed_file.h"
#include "formats/seek_table.h"
#include "tests/convert/packing/packed_fixture.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using testing::BytesOf;

constexpr std::size_t kRows = 1024;
constexpr std::size_t kCols = 2048;

// Bytes that the values take at least when each is coded by how often it occurs.
template <typename T>
double EntropyBytes(const std::vector<T>& values) {
  std::map<T, double> counts;
  for (const T value : values) ++counts[value];
  double bits = 0;
  for (const auto& [value, count] : counts) {
    bits -= count * std::log2(count / static_cast<double>(values.size()));
  }
  return bits / 8;
}

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

void ExpectAtMost(std::size_t bytes, double factor, double entropy, std::size_t raw) {
  const auto packed = static_cast<double>(bytes);
  EXPECT_LE(packed, factor * entropy);
  EXPECT_GE(packed, 0.98 * entropy) << "the entropy is counted wrongly";
  ::testing::Test::RecordProperty("ratio", std::to_string(packed / static_cast<double>(raw)));
}

std::vector<std::uint16_t> BF16Of(const std::vector<float>& values) {
  std::vector<std::uint16_t> out;
  for (const float value : values) out.push_back(testing::ToBF16(value));
  return out;
}

float FromBF16(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16;
  return std::bit_cast<float>(wide);
}

// The values of E4M3 codes 0 to 126.
std::vector<float> E4M3Values() {
  std::vector<float> values;
  for (int code = 0; code < 127; ++code) {
    const int exponent = code >> 3;
    const int ulps = code & 7;
    values.push_back(exponent == 0 ? std::ldexp(static_cast<float>(ulps), -9)
                                   : std::ldexp(static_cast<float>(8 + ulps), exponent - 10));
  }
  return values;
}

// E4M3 with a scale for each block of 128 by 128, as checkpoints have it.
std::vector<std::uint8_t> E4M3Of(const std::vector<float>& weights) {
  static const std::vector<float> values = E4M3Values();
  std::vector<std::uint8_t> codes(weights.size());
  constexpr std::size_t kBlock = 128;
  for (std::size_t block = 0; block < kRows * kCols / kBlock / kBlock; ++block) {
    const std::size_t first =
        block / (kCols / kBlock) * kBlock * kCols + block % (kCols / kBlock) * kBlock;
    float largest = 0;
    const auto for_all = [&](const auto& work) {
      for (std::size_t i = 0; i < kBlock * kBlock; ++i)
        work(first + i / kBlock * kCols + i % kBlock);
    };
    for_all([&](std::size_t i) { largest = std::max(largest, std::abs(weights[i])); });
    for_all([&](std::size_t i) {
      const float value = std::abs(weights[i]) / largest * 448;
      auto above = std::lower_bound(values.begin(), values.end(), value);
      if (above == values.end() ||
          (above != values.begin() && value - above[-1] < *above - value)) {
        --above;
      }
      codes[i] = static_cast<std::uint8_t>((above - values.begin()) | (weights[i] < 0 ? 0x80 : 0));
    });
  }
  return codes;
}

// Differences of numbers in their order, by docs/packed.md.
template <typename T>
std::vector<T> Differences(const std::vector<T>& values, const std::vector<T>& base) {
  constexpr int kSign = 1 << (8 * sizeof(T) - 1);
  const auto order = [](T bits) { return bits >= kSign ? kSign - 1 - bits : int{bits}; };
  std::vector<T> differences;
  for (std::size_t i = 0; i < values.size(); ++i) {
    differences.push_back(static_cast<T>(order(values[i]) - order(base[i])));
  }
  return differences;
}

class PackedSizeTest : public ::testing::Test {
 protected:
  PackedSizeTest() {
    const std::vector<float> moves = testing::NormalWeights(kRows, kCols, 2);
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      const float base = FromBF16(base_[i]);
      tuned_.push_back(testing::ToBF16(base + 0.02F * moves[i]));
      rounded_.push_back(base);
      tuned_values_.push_back(FromBF16(tuned_.back()));
    }
  }

  std::vector<float> weights_ = testing::NormalWeights(kRows, kCols, 1);
  std::vector<std::uint16_t> base_ = BF16Of(weights_);
  std::vector<std::uint16_t> tuned_;
  std::vector<float> rounded_;
  std::vector<float> tuned_values_;
};

TEST_F(PackedSizeTest, OfBF16) {
  double entropy = 0;
  constexpr std::size_t kElements = kPackedChunkBytes / 2;
  for (std::size_t begin = 0; begin < base_.size(); begin += kElements) {
    std::vector<std::uint8_t> exponents;
    std::vector<std::uint8_t> others;
    for (std::size_t i = begin; i < begin + kElements; ++i) {
      exponents.push_back(static_cast<std::uint8_t>(base_[i] >> 7));
      others.push_back(static_cast<std::uint8_t>(base_[i] % 128 * 2 + base_[i] / 32768));
    }
    entropy += EntropyBytes(exponents) + EntropyBytes(others);
  }
  ExpectAtMost(StreamBytes(Dtype::kBF16, BytesOf(base_)), 1.008, entropy, 2 * base_.size());
}

TEST_F(PackedSizeTest, OfFp8) {
  const std::vector<std::uint8_t> codes = E4M3Of(rounded_);
  ExpectAtMost(StreamBytes(Dtype::kF8E4M3, BytesOf(codes)), 1.012, EntropyBytes(codes),
               codes.size());
}

// One per cent of the values moves to a neighbour.
TEST_F(PackedSizeTest, OfAStepOfReinforcementLearning) {
  std::mt19937_64 random(3);
  std::vector<std::uint16_t> next = base_;
  for (std::uint16_t& value : next) {
    if (random() % 100 == 0)
      value = static_cast<std::uint16_t>(value + (random() % 2 == 0 ? 1 : -1));
  }
  ExpectAtMost(StreamBytes(Dtype::kBF16, BytesOf(next), BytesOf(base_)), 1.12,
               EntropyBytes(Differences(next, base_)), 2 * base_.size());
}

TEST_F(PackedSizeTest, OfAFineTuneInBF16) {
  ExpectAtMost(StreamBytes(Dtype::kBF16, BytesOf(tuned_), BytesOf(base_)), 1.05,
               EntropyBytes(Differences(tuned_, base_)), 2 * base_.size());
}

TEST_F(PackedSizeTest, OfAFineTuneInFp8) {
  const std::vector<std::uint8_t> base = E4M3Of(rounded_);
  const std::vector<std::uint8_t> tuned = E4M3Of(tuned_values_);
  ExpectAtMost(StreamBytes(Dtype::kF8E4M3, BytesOf(tuned), BytesOf(base)), 1.12,
               EntropyBytes(Differences(tuned, base)), base.size());
}

TEST_F(PackedSizeTest, OfATensorThatIsTheBase) {
  EXPECT_LE(StreamBytes(Dtype::kBF16, BytesOf(base_), BytesOf(base_)), base_.size() / 10000);
}

}  // namespace
}  // namespace dsv3::convert
