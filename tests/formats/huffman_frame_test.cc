// Frames of literals, decoded by libzstd and by our own decoder, and their codes.

#include "formats/huffman_frame.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <zstd.h>

#include "formats/fse_weights.h"
#include "formats/huffman_code.h"
#include "formats/huffman_decoder.h"
#include "formats/huffman_streams.h"
#include "tests/support/sanitizers.h"

namespace dsv3::formats {
namespace {

using Bytes = std::vector<std::byte>;

Bytes FrameOf(HuffmanFrameEncoder& encoder, const Bytes& content) {
  Bytes frame(ZSTD_compressBound(content.size()));
  frame.resize(encoder.Encode(content, frame));
  return frame;
}

Bytes FrameOf(const Bytes& content) {
  HuffmanFrameEncoder encoder;
  return FrameOf(encoder, content);
}

// By libzstd; our own decoder must give the same.
Bytes ContentOf(const Bytes& frame, std::size_t bytes) {
  static HuffmanFrameDecoder decoder;
  Bytes ours(bytes, std::byte{0x5a});
  EXPECT_TRUE(decoder.Decode(frame, ours));
  Bytes content(bytes);
  const std::size_t decoded =
      ZSTD_decompress(content.data(), content.size(), frame.data(), frame.size());
  EXPECT_EQ(ZSTD_isError(decoded), 0U) << ZSTD_getErrorName(decoded);
  EXPECT_EQ(decoded, bytes);
  EXPECT_EQ(ZSTD_getFrameContentSize(frame.data(), frame.size()), bytes);
  EXPECT_TRUE(ours == content);
  return content;
}

// Draws symbols with these weights.
Bytes Draw(std::size_t bytes, const std::vector<double>& weights, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::discrete_distribution<unsigned> symbols(weights.begin(), weights.end());
  Bytes content(bytes);
  for (std::byte& byte : content) byte = static_cast<std::byte>(symbols(random));
  return content;
}

// Each of `symbols` symbols is `ratio` times as frequent as the one before.
std::vector<double> Geometric(unsigned symbols, double ratio) {
  std::vector<double> weights(symbols);
  for (unsigned i = 0; i < symbols; ++i) weights[i] = std::pow(ratio, i);
  return weights;
}

ByteCounts CountsOf(const Bytes& content) {
  ByteCounts counts{};
  for (const std::byte byte : content) ++counts[std::to_integer<std::size_t>(byte)];
  return counts;
}

double EntropyBytes(const Bytes& content) {
  const auto n = static_cast<double>(content.size());
  double bits = 0;
  for (const std::uint32_t count : CountsOf(content)) {
    if (count != 0) bits += count * std::log2(n / count);
  }
  return bits / 8;
}

TEST(HuffmanFrameTest, LibzstdGivesBackContentsOfEverySize) {
  HuffmanFrameEncoder encoder;
  std::vector<std::size_t> sizes(1100);
  for (std::size_t i = 0; i < sizes.size(); ++i) sizes[i] = i;
  for (const std::size_t edge : {16383U, 16384U, 16387U, 131071U, 131072U, 131073U, 131400U}) {
    sizes.push_back(edge);
    sizes.push_back(edge * 2 + 1);
  }
  for (const std::size_t bytes : dsv3::testing::Thinned(sizes, 13)) {
    const Bytes content = Draw(bytes, Geometric(20, 0.6), bytes);
    const Bytes frame = FrameOf(encoder, content);
    EXPECT_TRUE(ContentOf(frame, bytes) == content) << bytes;
    EXPECT_TRUE(frame == FrameOf(content)) << bytes << ": depends on what was coded before";
  }
}

TEST(HuffmanFrameTest, LibzstdGivesBackEveryDistribution) {
  std::vector<std::vector<double>> distributions;
  for (const unsigned symbols : {2U, 3U, 16U, 64U, 65U, 127U, 128U, 129U, 130U, 200U, 255U, 256U}) {
    for (const double ratio : {0.3, 0.9, 0.97, 1.0, 1.03, 2.0}) {
      distributions.push_back(Geometric(symbols, ratio));
    }
  }
  // Two symbols far apart, and one that is rare among all others.
  std::vector<double> apart(256, 0);
  apart.front() = 1;
  apart.back() = 3;
  distributions.push_back(apart);
  std::vector<double> most(256, 1);
  most[77] = 1e-3;
  most[78] = 3000;
  distributions.push_back(most);
  for (std::size_t i = 0; i < distributions.size(); i += dsv3::testing::Stride(9)) {
    for (const std::size_t bytes : {300U, 5000U, 400000U}) {
      const Bytes content = Draw(bytes, distributions[i], i);
      const Bytes frame = FrameOf(content);
      EXPECT_TRUE(ContentOf(frame, bytes) == content) << i << " with " << bytes;
      EXPECT_LE(frame.size(), bytes + 16 + 3 * (bytes / 131072 + 1));
    }
  }
}

// Blocks of one symbol, of noise, and of codes that do not fit those before.
TEST(HuffmanFrameTest, LibzstdGivesBackBlocksThatDiffer) {
  constexpr std::size_t kBlock = 1 << 17;
  const std::vector<Bytes> kinds = {Bytes(kBlock, std::byte{9}), Draw(kBlock, Geometric(256, 1.0)),
                                    Draw(kBlock, Geometric(40, 0.8)),
                                    Draw(kBlock, Geometric(200, 1.05)),
                                    Draw(kBlock, Geometric(3, 0.5))};
  const auto with = [&](const std::vector<std::size_t>& blocks) {
    Bytes content;
    for (const std::size_t kind : blocks) {
      content.insert(content.end(), kinds[kind].begin(), kinds[kind].end());
    }
    content.push_back(std::byte{1});
    return content;
  };
  for (const auto& blocks : std::vector<std::vector<std::size_t>>{
           {0, 2, 0, 2}, {1, 2, 3, 2, 3, 4}, {4, 4, 1, 4}, {2, 2, 2, 3, 2}, {1, 0, 4}}) {
    const Bytes content = with(blocks);
    EXPECT_TRUE(ContentOf(FrameOf(content), content.size()) == content);
  }
  // One code for all blocks takes more.
  const Bytes mixed = with({2, 3, 4, 3, 4});
  const double apart =
      EntropyBytes(kinds[2]) + 2 * EntropyBytes(kinds[3]) + 2 * EntropyBytes(kinds[4]);
  EXPECT_LT(static_cast<double>(FrameOf(mixed).size()), 1.05 * apart);
}

TEST(HuffmanFrameTest, ComesNearTheEntropy) {
  for (const auto& [symbols, ratio] :
       std::vector<std::pair<unsigned, double>>{{24, 0.55}, {60, 0.9}, {200, 0.99}, {256, 1.01}}) {
    const Bytes content =
        Draw(std::size_t{1} << (dsv3::testing::kSanitized ? 18 : 21), Geometric(symbols, ratio));
    EXPECT_LT(static_cast<double>(FrameOf(content).size()), 1.03 * EntropyBytes(content))
        << symbols;
  }
}

// Whether our own decoder takes the frame. What it fills is exactly as long as the content.
bool IsTaken(std::span<const std::byte> frame, std::size_t bytes, Bytes* content = nullptr) {
  HuffmanFrameDecoder decoder;
  Bytes room(bytes);
  const bool taken = decoder.Decode(frame, room);
  if (content != nullptr) *content = room;
  return taken;
}

TEST(HuffmanFrameDecoderTest, LeavesOtherFramesToLibzstd) {
  const Bytes content = Draw(300000, Geometric(20, 0.6));
  Bytes frame(ZSTD_compressBound(content.size()));
  frame.resize(ZSTD_compress(frame.data(), frame.size(), content.data(), content.size(), 3));
  EXPECT_FALSE(IsTaken(frame, content.size()));
  const Bytes ours = FrameOf(content);
  EXPECT_TRUE(IsTaken(ours, content.size()));
  EXPECT_FALSE(IsTaken(ours, content.size() - 1));
  EXPECT_FALSE(IsTaken(ours, content.size() + 1));
  Bytes longer = ours;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(IsTaken(longer, content.size()));
}

TEST(HuffmanFrameDecoderTest, TakesNoPrefix) {
  const Bytes content = Draw(3000, Geometric(200, 0.98));
  const Bytes frame = FrameOf(content);
  for (std::size_t bytes = 0; bytes < frame.size(); ++bytes) {
    EXPECT_FALSE(IsTaken(std::span(frame).first(bytes), content.size())) << bytes;
  }
}

// Of each flipped bit: it is found, or the content is as before and libzstd says so, too.
TEST(HuffmanFrameDecoderTest, FlippedBitsAreFoundOrChangeNothing) {
  for (const auto& [symbols, bytes] : std::vector<std::pair<unsigned, std::size_t>>{
           {12, 200}, {40, 3000}, {250, 3000}, {3, 5000}}) {
    const Bytes content = Draw(bytes, Geometric(symbols, 0.95));
    Bytes frame = FrameOf(content);
    std::size_t without_effect = 0;
    for (std::size_t bit = 0; bit < 8 * frame.size(); bit += dsv3::testing::Stride(23)) {
      const auto flip = static_cast<std::byte>(1U << (bit % 8));
      frame[bit / 8] ^= flip;
      Bytes made;
      if (IsTaken(frame, bytes, &made)) {
        ++without_effect;
        EXPECT_TRUE(made == content) << bit;
        EXPECT_TRUE(ContentOf(frame, bytes) == content) << bit;
      }
      frame[bit / 8] ^= flip;
    }
    // Bits that fill up a byte, and those that choose between states of one symbol.
    EXPECT_LT(without_effect, 16U);
  }
}

// Streams of random bits and sizes: no fault of memory, and no endless loop.
TEST(HuffmanFrameDecoderTest, ReadsAnyBytesSafely) {
  std::mt19937_64 random(5);
  const Bytes content = Draw(2000, Geometric(30, 0.8));
  const Bytes sound = FrameOf(content);
  for (int i = 0; i < 20000; i += static_cast<int>(dsv3::testing::Stride(10))) {
    Bytes frame = sound;
    for (int k = 0; k < 1 + i % 40; ++k) {
      frame[9 + random() % (frame.size() - 9)] = static_cast<std::byte>(random());
    }
    IsTaken(frame, content.size());
  }
}

// The fewest bits of all symbols by any lengths of up to 11 that make a code: those whose shares
// 2^-length sum up to 1 at most (Kraft).
std::uint64_t FewestBits(const ByteCounts& counts) {
  constexpr std::size_t kWhole = std::size_t{1} << kLongestHuffmanCode;
  constexpr std::uint64_t kNever = std::uint64_t{1} << 60;
  std::vector<std::uint64_t> bits(kWhole + 1, kNever);  // by the shares that are taken
  bits[0] = 0;
  for (const std::uint32_t count : counts) {
    if (count == 0) continue;
    std::vector<std::uint64_t> next(kWhole + 1, kNever);
    for (unsigned length = 1; length <= kLongestHuffmanCode; ++length) {
      const std::size_t share = kWhole >> length;
      for (std::size_t taken = share; taken <= kWhole; ++taken) {
        next[taken] = std::min(next[taken], bits[taken - share] + std::uint64_t{count} * length);
      }
    }
    bits.swap(next);
  }
  return *std::min_element(bits.begin(), bits.end());
}

void ExpectBest(const ByteCounts& counts) {
  const HuffmanCode code = MakeHuffmanCode(counts);
  std::uint64_t bits = 0;
  double shares = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    EXPECT_EQ(code.lengths[i] != 0, counts[i] != 0);
    if (code.lengths[i] == 0) continue;
    shares += std::ldexp(1, -code.lengths[i]);
    bits += std::uint64_t{counts[i]} * code.lengths[i];
  }
  EXPECT_EQ(shares, 1);
  EXPECT_LE(code.longest, kLongestHuffmanCode);
  EXPECT_EQ(bits, FewestBits(counts));
}

TEST(HuffmanCodeTest, MakesTheFewestBitsOfUpToElevenASymbol) {
  for (std::uint64_t seed = 0; seed < 40; seed += dsv3::testing::Stride(9)) {
    const auto symbols = static_cast<unsigned>(2 + seed * 6);
    const double ratio = 0.5 + 0.0125 * static_cast<double>(seed);
    ExpectBest(CountsOf(Draw(100000, Geometric(symbols, ratio), seed)));
  }
  // Fibonacci numbers make the longest codes where there is no limit.
  ByteCounts counts{};
  std::uint32_t a = 1;
  std::uint32_t b = 1;
  for (std::size_t i = 0; i < 30; ++i) {
    counts[i] = a;
    a = std::exchange(b, a + b);
  }
  ExpectBest(counts);
  EXPECT_EQ(MakeHuffmanCode(counts).longest, kLongestHuffmanCode);
}

TEST(FseWeightsTest, HasNoStreamForWeightsThatAreAllEqual) {
  EXPECT_TRUE(EncodeFseWeights(std::vector<std::uint8_t>{4}).empty());
  EXPECT_TRUE(EncodeFseWeights(std::vector<std::uint8_t>(200, 4)).empty());
  EXPECT_FALSE(EncodeFseWeights(std::vector<std::uint8_t>{4, 5}).empty());
}

TEST(FseWeightsTest, GivesBackWeightsOfEveryKind) {
  std::mt19937_64 random(3);
  unsigned encoded = 0;
  for (int i = 0; i < 3000; i += static_cast<int>(dsv3::testing::Stride(10))) {
    std::vector<std::uint8_t> weights(2 + random() % 254);
    const unsigned kinds = 2 + static_cast<unsigned>(random() % 11);
    const unsigned rare = 1 + static_cast<unsigned>(random() % 20);
    for (std::uint8_t& weight : weights) {
      weight = static_cast<std::uint8_t>(random() % rare == 0 ? random() % kinds : random() % 2);
    }
    const std::vector<std::byte> stream = EncodeFseWeights(weights);
    if (stream.empty()) continue;
    ++encoded;
    EXPECT_LT(stream.size(), 128U);
    EXPECT_EQ(DecodeFseWeights(stream), weights);
  }
  EXPECT_GT(encoded, 200U);
}

TEST(CountBytesTest, CountsEveryByte) {
  for (const std::size_t bytes : {0U, 1U, 15U, 16U, 17U, 40000U}) {
    const Bytes content = Draw(bytes, Geometric(256, 1.0), bytes);
    ByteCounts counts{};
    CountBytes(content, counts);
    EXPECT_EQ(counts, CountsOf(content)) << bytes;
  }
}

}  // namespace
}  // namespace dsv3::formats
