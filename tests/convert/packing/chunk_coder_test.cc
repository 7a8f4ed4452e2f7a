#include "convert/packing/chunk_coder.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/zstd_frame.h"
#include "tests/convert/packing/packed_fixture.h"
#include "tests/formats/expect_error.h"
#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::SeekEntry;
using testing::AsBytes;
using testing::ErrorOf;
using testing::ExpectBadInput;
using testing::PackChunk;
using testing::PackedBytes;
using testing::RandomBytes;

std::string Unpack(const PackedBytes& packed, std::size_t raw_bytes, std::string_view base = {}) {
  std::string raw(raw_bytes, 'x');
  ChunkDecoder().Decode(AsBytes(packed.bytes), packed.frames, AsBytes(base), {"f.packed", "w", 3},
                        std::as_writable_bytes(std::span(raw)));
  return raw;
}

// The number of the coding and the bytes of an element, by docs/packed.md.
unsigned CodingOf(const PackedBytes& packed) { return static_cast<std::uint8_t>(packed.bytes[9]); }
unsigned WidthOf(const PackedBytes& packed) { return static_cast<std::uint8_t>(packed.bytes[10]); }

// CRC-32, bit by bit.
std::uint32_t CrcOf(std::string_view text) {
  std::uint32_t crc = ~0U;
  for (const char c : text) {
    crc ^= static_cast<std::uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB88320U : 0);
  }
  return ~crc;
}

// Puts the right checksum into the coding of a chunk that was changed; `raw` where it needs a base.
void Seal(PackedBytes& packed, std::string_view raw = {}) {
  const std::uint32_t crc = CrcOf(packed.bytes.substr(8, 8) + std::string(raw));
  std::memcpy(packed.bytes.data() + 16, &crc, sizeof crc);
}

// A chunk of these planes with this coding, for faults that an encoder does not make.
PackedBytes Crafted(unsigned coding, unsigned width, std::uint32_t raw_bytes,
                    const std::vector<std::string>& planes, std::string_view raw = {}) {
  PackedBytes packed;
  packed.bytes = std::string("\x50\x2A\x4D\x18\x0C\0\0\0\x01", 9);
  packed.bytes += static_cast<char>(coding);
  packed.bytes += static_cast<char>(width);
  packed.bytes += static_cast<char>(planes.size());
  packed.bytes.append(reinterpret_cast<const char*>(&raw_bytes), 4);
  packed.bytes.append(4, '\0');
  packed.frames.push_back({20, 0});
  Seal(packed, raw);
  for (const std::string& plane : planes) {
    std::string frame(formats::ZstdFrameBound(plane.size()), '\0');
    frame.resize(formats::ZstdEncoder().Encode(AsBytes(plane), formats::ZstdMethod::kFast,
                                               std::as_writable_bytes(std::span(frame))));
    packed.bytes += frame;
    packed.frames.push_back(
        {static_cast<std::uint32_t>(frame.size()), static_cast<std::uint32_t>(plane.size())});
  }
  return packed;
}

// Several elements changed by one step of their bits.
std::string Stepped(std::string raw, std::size_t width, std::size_t every) {
  for (std::size_t i = 0; i < raw.size() / width; i += every) {
    raw[i * width] = static_cast<char>(raw[i * width] + 1);
  }
  return raw;
}

std::string BF16Chunk(std::size_t elements, std::uint64_t seed = 1) {
  std::vector<std::uint16_t> values;
  for (const float weight : testing::NormalWeights(1, elements, seed)) {
    values.push_back(testing::ToBF16(weight));
  }
  return testing::BytesOf(values);
}

TEST(ChunkCoderTest, GivesBackEveryDtypeAndLength) {
  for (int i = 0; i < formats::kNumDtypes; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    const std::size_t width = std::max(1U, formats::DtypeBits(dtype) / 8);
    for (const std::size_t elements : {1U, 2U, 3U, 255U, 256U, 4099U, 40000U}) {
      const std::size_t bytes = elements * width;
      for (const std::string& raw :
           {RandomBytes(bytes, 1), std::string(bytes, '\0'), std::string(bytes, '\xFF'),
            BF16Chunk(bytes).substr(0, bytes)}) {
        const PackedBytes alone = PackChunk(dtype, raw);
        ASSERT_EQ(Unpack(alone, bytes), raw) << formats::DtypeName(dtype) << " " << elements;
        for (const std::string& base :
             {raw, RandomBytes(bytes, 2), Stepped(raw, width, 1), Stepped(raw, width, 2),
              Stepped(raw, width, 300), std::string(bytes, '\0')}) {
          const PackedBytes packed = PackChunk(dtype, raw, base);
          ASSERT_EQ(Unpack(packed, bytes, base), raw)
              << formats::DtypeName(dtype) << " " << elements;
          // A base may only help.
          ASSERT_LE(packed.bytes.size(), alone.bytes.size() + alone.bytes.size() / 16 + 64);
          std::size_t sum = 0;
          for (const SeekEntry& frame : packed.frames) sum += frame.frame_bytes;
          ASSERT_EQ(sum, packed.bytes.size());
          ASSERT_LE(packed.frames.size(), kMaxChunkFrames);
        }
      }
    }
  }
}

TEST(ChunkCoderTest, TakesTheCodingThatSuits) {
  const std::size_t n = std::size_t{1} << 18;
  const std::string weights = BF16Chunk(n);
  EXPECT_EQ(CodingOf(PackChunk(Dtype::kBF16, weights)), 1U);
  EXPECT_EQ(CodingOf(PackChunk(Dtype::kF16, weights)), 1U);
  EXPECT_EQ(CodingOf(PackChunk(Dtype::kF8E4M3, weights)), 0U);
  EXPECT_EQ(WidthOf(PackChunk(Dtype::kF32, testing::BytesOf(testing::NormalWeights(64, 64, 1)))),
            4U);
  // Matches of whole elements are seen in the bytes as they are alone.
  std::string repeated = RandomBytes(1000, 1);
  for (int i = 0; i < 6; ++i) repeated += repeated;
  EXPECT_EQ(WidthOf(PackChunk(Dtype::kI64, repeated)), 1U);

  EXPECT_EQ(CodingOf(PackChunk(Dtype::kBF16, weights, weights)), 8U);
  EXPECT_EQ(CodingOf(PackChunk(Dtype::kBF16, Stepped(weights, 2, 100), weights)), 5U);
  EXPECT_EQ(CodingOf(PackChunk(Dtype::kU16, Stepped(weights, 2, 100), weights)), 4U);
  EXPECT_EQ(CodingOf(PackChunk(Dtype::kF8E4M3, Stepped(weights, 1, 1), weights)), 3U);
  EXPECT_EQ(CodingOf(PackChunk(Dtype::kI8, Stepped(weights, 1, 1), weights)), 2U);
  // Another model.
  EXPECT_EQ(CodingOf(PackChunk(Dtype::kBF16, weights, BF16Chunk(n, 2))), 1U);

  std::vector<std::uint16_t> base(n);
  std::vector<std::uint16_t> tuned(n);
  std::vector<std::uint32_t> counts(n);
  std::vector<std::uint32_t> later(n);
  const std::vector<float> values = testing::NormalWeights(1, n, 1);
  const std::vector<float> steps = testing::NormalWeights(1, n, 2);
  for (std::size_t i = 0; i < n; ++i) {
    base[i] = testing::ToBF16(values[i]);
    tuned[i] = testing::ToBF16(values[i] + 0.02F * steps[i]);
    counts[i] = static_cast<std::uint32_t>(i * 2654435761U);
    later[i] = counts[i] + static_cast<std::uint32_t>(i * i % 200);
  }
  EXPECT_EQ(CodingOf(PackChunk(Dtype::kBF16, testing::BytesOf(tuned), testing::BytesOf(base))), 7U);
  EXPECT_EQ(CodingOf(PackChunk(Dtype::kU32, testing::BytesOf(later), testing::BytesOf(counts))),
            6U);
}

TEST(ChunkCoderTest, PacksTheSameBytesAgainAndAfterOtherChunks) {
  const std::string raw = BF16Chunk(std::size_t{1} << 17);
  const std::string base = Stepped(raw, 2, 3);
  const PackedBytes first = PackChunk(Dtype::kBF16, raw, base);
  ChunkEncoder encoder;
  std::string out(PackedChunkBound(raw.size()), '\0');
  std::vector<SeekEntry> frames;
  const auto encode = [&](Dtype dtype, const std::string& chunk, const std::string& old) {
    frames.clear();
    const std::size_t bytes = encoder.Encode(dtype, AsBytes(chunk), AsBytes(old),
                                             std::as_writable_bytes(std::span(out)), frames);
    return out.substr(0, bytes);
  };
  encode(Dtype::kI64, RandomBytes(100000, 1), "");
  encode(Dtype::kF8E4M3, RandomBytes(100001, 1), RandomBytes(100001, 2));
  EXPECT_EQ(encode(Dtype::kBF16, raw, base), first.bytes);
  EXPECT_EQ(frames, first.frames);
}

TEST(ChunkCoderTest, TheSmallestCodingStaysBelowTheBound) {
  for (const std::size_t bytes : {8U, 64U, 4096U, 1U << 20, 4U << 20}) {
    for (const Dtype dtype : {Dtype::kU8, Dtype::kBF16, Dtype::kF64}) {
      const std::string raw = RandomBytes(bytes, 1);
      EXPECT_EQ(Unpack(PackChunk(dtype, raw), bytes), raw);
      // Half of the elements change, at random places: the largest sparse chunk.
      std::string half = raw;
      const std::string choice = RandomBytes(bytes, 3);
      for (std::size_t i = 0; i < bytes; ++i) {
        if (choice[i] > 0) half[i] = static_cast<char>(half[i] + choice[bytes - 1 - i]);
      }
      EXPECT_EQ(Unpack(PackChunk(dtype, half, raw), bytes, raw), half);
    }
  }
}

// One chunk of each coding, with its base.
struct Sample {
  Dtype dtype;
  std::string raw;
  std::string base;
};

std::vector<Sample> SamplesOfCodings() {
  const std::string weights = BF16Chunk(400);
  std::string few = weights;
  for (const int i : {3, 300, 301, 799}) few[static_cast<std::size_t>(i)] ^= 5;
  // Small steps, and some large ones.
  std::vector<std::uint16_t> old;
  std::vector<std::uint16_t> moved;
  const std::vector<float> steps = testing::NormalWeights(1, 4000, 9);
  for (const float weight : testing::NormalWeights(1, 4000, 8)) {
    moved.push_back(testing::ToBF16(weight + 0.02F * steps[old.size()]));
    old.push_back(testing::ToBF16(weight));
  }
  return {{Dtype::kU8, weights, ""},
          {Dtype::kBF16, weights, ""},
          {Dtype::kI8, Stepped(weights, 1, 1), weights},
          {Dtype::kF8E5M2, Stepped(weights, 1, 1), weights},
          {Dtype::kI16, few, weights},
          {Dtype::kBF16, few, weights},
          {Dtype::kI16, testing::BytesOf(moved), testing::BytesOf(old)},
          {Dtype::kBF16, testing::BytesOf(moved), testing::BytesOf(old)},
          {Dtype::kBF16, weights, weights}};
}

TEST(ChunkCoderTest, EveryFlippedBitIsAnErrorOrChangesNothing) {
  std::set<unsigned> codings;
  for (const Sample& sample : SamplesOfCodings()) {
    const PackedBytes packed = PackChunk(sample.dtype, sample.raw, sample.base);
    codings.insert(CodingOf(packed));
    for (std::size_t bit = 0; bit < 8 * packed.bytes.size(); ++bit) {
      PackedBytes flipped = packed;
      flipped.bytes[bit / 8] = static_cast<char>(flipped.bytes[bit / 8] ^ 1 << bit % 8);
      try {
        ASSERT_EQ(Unpack(flipped, sample.raw.size(), sample.base), sample.raw) << bit;
        // Bits of frames that say nothing: zstd's unused ones.
        ASSERT_GE(bit / 8, 20U) << "of coding " << CodingOf(packed);
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ErrorCode::kBadInput);
        ASSERT_THAT(error.message(), ::testing::HasSubstr("f.packed: chunk 3 of tensor 'w' "));
        ASSERT_EQ(error.place().file, "f.packed");
        ASSERT_EQ(error.place().tensor, "w");
      }
    }
  }
  EXPECT_THAT(codings, ::testing::ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8));
}

TEST(ChunkCoderTest, AnotherBaseIsFound) {
  for (const Sample& sample : SamplesOfCodings()) {
    if (sample.base.empty()) continue;
    const PackedBytes packed = PackChunk(sample.dtype, sample.raw, sample.base);
    std::string other = sample.base;
    other[100] ^= 0x10;
    ExpectBadInput([&] { Unpack(packed, sample.raw.size(), other); }, "does not fit the base",
                   "--base");
    ExpectBadInput([&] { Unpack(packed, sample.raw.size()); }, "holds only what differs",
                   "give that base with --base");
  }
}

TEST(ChunkCoderTest, RefusesForeignCodings) {
  const std::string raw = RandomBytes(64, 1);
  PackedBytes packed = PackChunk(Dtype::kU8, raw);
  const auto expect = [&](std::size_t at, int value, const std::string& problem) {
    PackedBytes changed = packed;
    changed.bytes[at] = static_cast<char>(value);
    Seal(changed);
    ExpectBadInput([&] { Unpack(changed, raw.size()); }, problem);
  };
  expect(0, 0x51, "does not begin with the frame");
  expect(8, 2, "a coding of version 2, and this program knows version 1 alone");
  expect(9, 9, "a coding 9, which this program does not know");
  expect(10, 0, "of elements of 0 bytes");
  expect(10, 3, "of elements of 3 bytes");
  expect(10, 2, "has 1 planes");
  expect(11, 2, "has 1 planes");
  expect(12, 63, "says that it holds 63 bytes, and the tensor has 64 bytes there");
  expect(9, 1, "a coding 1 of elements of 1 bytes");
  expect(9, 6, "a coding 6 of elements of 1 bytes");
  packed.bytes[16] ^= 1;
  ExpectBadInput([&] { Unpack(packed, raw.size()); }, "its coding has another checksum");
}

TEST(ChunkCoderTest, RefusesFramesThatDoNotFit) {
  const std::string raw = BF16Chunk(100);
  const PackedBytes packed = PackChunk(Dtype::kBF16, raw);
  const auto expect = [&](const PackedBytes& changed, const std::string& problem) {
    ExpectBadInput([&] { Unpack(changed, raw.size()); }, problem);
  };
  PackedBytes changed = packed;
  changed.bytes += 'x';
  expect(changed, "frames of another size");
  changed.frames[0].frame_bytes += 1;
  expect(changed, "does not begin with the frame");
  changed = packed;
  changed.frames[0].content_bytes = 1;
  expect(changed, "begins with a frame of another size");
  changed = packed;
  changed.frames[1].content_bytes = 0xFFFFFFFF;
  expect(changed, "planes of other sizes");
  changed = packed;
  std::swap(changed.frames[1].frame_bytes, changed.frames[2].frame_bytes);
  expect(changed, "of the frame of plane 0");
  changed = packed;
  changed.frames.pop_back();
  changed.bytes.resize(20 + packed.frames[1].frame_bytes);
  expect(changed, "has 1 planes");
  expect({"", {}}, "frames of another size");
  for (std::size_t size = 1; size < packed.bytes.size(); ++size) {
    // The seek table of a stream that was cut says so; one that was made to fit does not.
    changed = packed;
    changed.bytes.resize(size);
    while (changed.frames.size() > 1 &&
           size <= 20 + (changed.frames.size() > 2 ? packed.frames[1].frame_bytes : 0)) {
      changed.frames.pop_back();
    }
    std::uint32_t before = 0;
    for (std::size_t i = 0; i + 1 < changed.frames.size(); ++i)
      before += changed.frames[i].frame_bytes;
    changed.frames.back().frame_bytes = static_cast<std::uint32_t>(size) - before;
    const Error error = ErrorOf([&] { Unpack(changed, raw.size()); });
    ASSERT_EQ(error.code(), ErrorCode::kBadInput) << size;
  }
}

TEST(ChunkCoderTest, RefusesGapsAndDifferencesThatDoNotFit) {
  const std::string base(100, 'b');
  const auto expect = [&](unsigned coding, unsigned width, const std::vector<std::string>& planes,
                          const std::string& problem) {
    ExpectBadInput([&] { Unpack(Crafted(coding, width, 100, planes, base), 100, base); }, problem);
  };
  const std::string zeros(99, '\0');
  // A gap that leaves the chunk; more and fewer gaps than values (at most one a value here); a long
  // gap at the end.
  expect(4, 1, {std::string("\x63\x01", 2), "ab"}, "the gaps between its values");
  expect(4, 1, {std::string("\x01\x01", 2), "a"}, "planes of other sizes");
  expect(4, 1, {std::string("\x01", 1), "ab"}, "the gaps between its values");
  expect(4, 1, {std::string("\x01\xFF", 2), "ab"}, "the gaps between its values");
  expect(5, 2, {std::string("\x01", 1), "ab", "a"}, "planes of other sizes");
  expect(5, 2, {zeros, "ab", "ab"}, "planes of other sizes");
  expect(5, 1, {std::string("\x01", 1), zeros + zeros}, "planes of other sizes");
  // Large differences without small ones, fewer of them, and beyond the elements.
  const std::string small = std::string(49, '\1') + '\xFF';
  expect(6, 2, {small}, "its large differences");
  expect(6, 2, {std::string(50, '\1'), "a", "a"}, "its large differences");
  expect(6, 2, {small, "ab", "ab"}, "its large differences");
  expect(7, 2, {small, "a", "\xFF"}, "its large differences");
  expect(7, 2, {small, "a", "ab"}, "planes of other sizes");
  expect(7, 2, {zeros, "a", "a"}, "planes of other sizes");
  // The same with what fits.
  EXPECT_EQ(Unpack(Crafted(4, 1, 100, {"c", std::string("\x02", 1)}, std::string(99, 'b') + 'c'),
                   100, base),
            std::string(99, 'b') + 'c');
}

}  // namespace
}  // namespace dsv3::convert
