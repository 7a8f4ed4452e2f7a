// The first byte of an input says what the rest is:
//   0  a packed chunk as it is, after the sizes of its frames
//   1  the head of a coding and the contents of planes, which are made frames with right checksums,
//      so that what is behind these is reached
//   2  a chunk and a base, to be packed and unpacked

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "convert/packing/chunk_coder.h"
#include "formats/dtype.h"
#include "formats/error.h"
#include "formats/hash/crc32.h"
#include "formats/zstd_frame.h"
#include "tests/fuzz/require.h"

namespace {

using dsv3::convert::ChunkDecoder;
using dsv3::formats::SeekEntry;
using Bytes = std::vector<std::byte>;

constexpr std::size_t kRawBytes = 96;
constexpr std::size_t kCodingBytes = 20;

// Takes bytes from the front of an input; zeros behind its end.
class Input {
 public:
  explicit Input(std::span<const std::byte> data) : data_(data) {}

  std::size_t Number() {
    if (data_.empty()) return 0;
    const auto number = std::to_integer<std::size_t>(data_.front());
    data_ = data_.subspan(1);
    return number;
  }
  Bytes Take(std::size_t bytes) {
    const auto taken = data_.first(std::min(bytes, data_.size()));
    data_ = data_.subspan(taken.size());
    return {taken.begin(), taken.end()};
  }
  std::size_t left() const { return data_.size(); }

 private:
  std::span<const std::byte> data_;
};

void Decode(const Bytes& packed, const std::vector<SeekEntry>& frames, bool with_base) {
  // Of their own size, so that a step beside them is seen.
  Bytes base;
  for (std::size_t i = 0; i < kRawBytes && with_base; ++i) base.push_back(std::byte(i * 37));
  Bytes raw(kRawBytes);
  try {
    ChunkDecoder().Decode(packed, frames, base, {"fuzzed", "tensor", 7}, raw);
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: chunk 7 of tensor 'tensor' "));
  }
}

void DecodeAsItIs(Input& input) {
  const bool with_base = input.Number() % 2 == 1;
  std::vector<SeekEntry> frames;
  for (std::size_t count = input.Number() % 12; count > 0; --count) {
    const auto frame_bytes = static_cast<std::uint32_t>(input.Number());
    frames.push_back({frame_bytes, static_cast<std::uint32_t>(input.Number())});
  }
  Decode(input.Take(input.left()), frames, with_base);
}

void DecodePlanes(Input& input) {
  const bool with_base = input.Number() % 2 == 1;
  constexpr std::uint32_t kContent = kCodingBytes - 8;
  Bytes packed(kCodingBytes);
  dsv3::formats::WriteSkippableHead(0x184D2A50, kContent, std::span(packed).first<8>());
  packed[8] = std::byte{1};
  packed[9] = static_cast<std::byte>(input.Number());
  packed[10] = static_cast<std::byte>(input.Number());
  const std::size_t planes = input.Number() % 12;
  packed[11] = static_cast<std::byte>(planes);
  packed[12] = std::byte{kRawBytes};
  std::vector<SeekEntry> frames{{kCodingBytes, 0}};
  for (std::size_t i = 0; i < planes; ++i) {
    const Bytes plane = input.Take(input.Number() % (kRawBytes + 2));
    const std::size_t begin = packed.size();
    packed.resize(begin + dsv3::formats::ZstdFrameBound(plane.size()));
    const std::size_t bytes = dsv3::formats::ZstdEncoder().Encode(
        plane, dsv3::formats::ZstdMethod::kHuffman, std::span(packed).subspan(begin));
    packed.resize(begin + bytes);
    frames.push_back({static_cast<std::uint32_t>(bytes), static_cast<std::uint32_t>(plane.size())});
  }
  const std::uint32_t crc = dsv3::formats::Crc32(std::span(packed).subspan(8, 8));
  std::memcpy(packed.data() + 16, &crc, sizeof crc);
  Decode(packed, frames, with_base);
}

void PackAndUnpack(Input& input) {
  const auto dtype = static_cast<dsv3::formats::Dtype>(input.Number() % dsv3::formats::kNumDtypes);
  const std::size_t width = std::max(1U, dsv3::formats::DtypeBits(dtype) / 8);
  const std::size_t bytes = input.left() / 2 / width * width;
  if (bytes == 0) return;
  const Bytes raw = input.Take(bytes);
  for (const Bytes& base : {Bytes(), input.Take(bytes)}) {
    std::vector<SeekEntry> frames;
    Bytes packed(dsv3::convert::PackedChunkBound(bytes));
    packed.resize(dsv3::convert::ChunkEncoder().Encode(dtype, raw, base, packed, frames));
    Bytes unpacked(bytes);
    ChunkDecoder().Decode(packed, frames, base, {"packed", "tensor", 0}, unpacked);
    DSV3_FUZZ_REQUIRE(unpacked == raw);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(std::as_bytes(std::span(data, size)));
  switch (input.Number() % 3) {
    case 0:
      DecodeAsItIs(input);
      break;
    case 1:
      DecodePlanes(input);
      break;
    default:
      PackAndUnpack(input);
      break;
  }
  return 0;
}
