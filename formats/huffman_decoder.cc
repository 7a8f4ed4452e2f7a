#include "formats/huffman_decoder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "formats/fse_weights.h"
#include "formats/huffman_code.h"
#include "formats/symbol_table.h"
#include "formats/zstd_layout.h"

namespace dsv3::formats {
namespace {

// Takes little-endian numbers from the front of bytes.
class Taker {
 public:
  explicit Taker(std::span<const std::byte> bytes) : left_(bytes) {}

  // Nothing where there are not so many bytes, 8 at most.
  std::optional<std::uint64_t> Number(std::size_t bytes) {
    const auto taken = Bytes(bytes);
    if (!taken) return std::nullopt;
    std::uint64_t number = 0;
    std::memcpy(&number, taken->data(), bytes);
    return number;
  }
  std::optional<std::span<const std::byte>> Bytes(std::size_t bytes) {
    if (bytes > left_.size()) return std::nullopt;
    const std::span<const std::byte> taken = left_.first(bytes);
    left_ = left_.subspan(bytes);
    return taken;
  }
  std::span<const std::byte> left() const { return left_; }

 private:
  std::span<const std::byte> left_;
};

// The lengths of the codes by their weights, of which the last one is what is left; nothing where
// the weights make no code.
std::optional<std::array<std::uint8_t, 256>> LengthsOf(const std::vector<std::uint8_t>& weights) {
  std::array<std::uint8_t, 256> lengths{};
  if (weights.empty() || weights.size() >= lengths.size()) return std::nullopt;
  std::uint32_t shares = 0;
  for (const std::uint8_t weight : weights) {
    if (weight > kLongestHuffmanCode) return std::nullopt;
    if (weight != 0) shares += 1U << (weight - 1);
  }
  const auto longest = static_cast<unsigned>(std::bit_width(shares));
  if (shares == 0 || longest > kLongestHuffmanCode) return std::nullopt;
  const std::uint32_t left = (1U << longest) - shares;
  if (!std::has_single_bit(left)) return std::nullopt;
  const auto set = [&](std::size_t symbol, unsigned weight) {
    if (weight != 0) lengths[symbol] = static_cast<std::uint8_t>(longest + 1 - weight);
  };
  for (std::size_t i = 0; i < weights.size(); ++i) set(i, weights[i]);
  set(weights.size(), static_cast<unsigned>(std::bit_width(left)));
  // Without codes of full length the weights are those of a shorter code, all by one too high.
  if (std::count(lengths.begin(), lengths.end(), longest) == 0) return std::nullopt;
  return lengths;
}

// Takes the description of a code (RFC 8878, 4.2.1).
std::optional<std::array<std::uint8_t, 256>> TakeCode(Taker& in) {
  const auto head = in.Number(1);
  if (!head) return std::nullopt;
  if (*head < 128) {
    const auto stream = in.Bytes(*head);
    if (!stream || stream->empty()) return std::nullopt;
    return LengthsOf(DecodeFseWeights(*stream));
  }
  const std::size_t count = *head - 127;
  const auto direct = in.Bytes((count + 1) / 2);
  if (!direct) return std::nullopt;
  std::vector<std::uint8_t> weights;
  for (std::size_t i = 0; i < count; ++i) {
    const auto both = std::to_integer<unsigned>((*direct)[i / 2]);
    weights.push_back(static_cast<std::uint8_t>(i % 2 == 0 ? both >> 4 : both & 15));
  }
  return LengthsOf(weights);
}

}  // namespace

class HuffmanFrameDecoder::State {
 public:
  bool Decode(std::span<const std::byte> frame, std::span<std::byte> content);

 private:
  bool TakeBlock(std::size_t kind, std::size_t bytes, Taker& in, std::span<std::byte>& room);
  bool TakeCompressed(std::span<const std::byte> block, std::span<std::byte>& room);

  SymbolTable table_;
  bool has_table_ = false;  // whether a block of this frame described a code
};

bool HuffmanFrameDecoder::State::Decode(std::span<const std::byte> frame,
                                        std::span<std::byte> content) {
  std::array<std::byte, kZstdFrameHeadBytes> head;
  std::byte* at = head.data();
  PutZstdFrameHead(content.size(), at);
  Taker in(frame);
  const auto found = in.Bytes(head.size());
  if (!found || content.size() >> 32 != 0 ||
      !std::equal(head.begin(), head.end(), found->begin())) {
    return false;
  }
  has_table_ = false;
  std::span<std::byte> room = content;
  bool last = false;
  while (!last) {
    const auto number = in.Number(kZstdBlockHeadBytes);
    if (!number || !TakeBlock(*number >> 1 & 3, *number >> 3, in, room)) return false;
    last = (*number & 1) != 0;
  }
  const auto checksum = in.Number(kZstdChecksumBytes);
  return room.empty() && checksum && in.left().empty() && *checksum == ZstdChecksum(content);
}

// Fills the beginning of `room` and takes it away.
bool HuffmanFrameDecoder::State::TakeBlock(std::size_t kind, std::size_t bytes, Taker& in,
                                           std::span<std::byte>& room) {
  if (bytes > kZstdBlockBytes) return false;
  if (kind == static_cast<unsigned>(ZstdBlock::kCompressed)) {
    const auto block = in.Bytes(bytes);
    return block && TakeCompressed(*block, room);
  }
  if (bytes > room.size()) return false;
  if (kind == static_cast<unsigned>(ZstdBlock::kRaw)) {
    const auto block = in.Bytes(bytes);
    if (!block) return false;
    std::copy(block->begin(), block->end(), room.begin());
  } else if (kind == static_cast<unsigned>(ZstdBlock::kRepeated)) {
    const auto byte = in.Number(1);
    if (!byte) return false;
    std::fill_n(room.begin(), bytes, static_cast<std::byte>(*byte));
  } else {
    return false;
  }
  room = room.subspan(bytes);
  return true;
}

bool HuffmanFrameDecoder::State::TakeCompressed(std::span<const std::byte> block,
                                                std::span<std::byte>& room) {
  if (block.empty()) return false;
  const auto first = std::to_integer<unsigned>(block[0]);
  const unsigned kind = first & 3;
  const unsigned format = first >> 2 & 3;
  if (kind != static_cast<unsigned>(ZstdLiterals::kWithCode) &&
      kind != static_cast<unsigned>(ZstdLiterals::kWithCodeOfBefore)) {
    return false;
  }
  Taker in(block);
  const auto sizes = in.Number(ZstdLiteralsHeadBytes(format));
  if (!sizes) return false;
  const unsigned size_bits = ZstdLiteralsSizeBits(format);
  const std::uint64_t mask = (std::uint64_t{1} << size_bits) - 1;
  const std::size_t makes = *sizes >> 4 & mask;
  const auto coded = in.Bytes(*sizes >> (4 + size_bits) & mask);
  // One byte is left, which says that there are no sequences.
  if (!coded || in.left().size() != 1 || in.left()[0] != std::byte{0}) return false;
  if (makes > room.size() || makes > kZstdBlockBytes) return false;
  Taker streams(*coded);
  if (kind == static_cast<unsigned>(ZstdLiterals::kWithCode)) {
    const auto lengths = TakeCode(streams);
    if (!lengths) return false;
    table_.Set(*lengths);
    has_table_ = true;
  }
  if (!has_table_) return false;
  const std::span<std::byte> out = room.first(makes);
  room = room.subspan(makes);
  return format == 0 ? table_.DecodeStream(streams.left(), out)
                     : table_.DecodeFourStreams(streams.left(), out);
}

HuffmanFrameDecoder::HuffmanFrameDecoder() : state_(std::make_unique<State>()) {}
HuffmanFrameDecoder::~HuffmanFrameDecoder() = default;
HuffmanFrameDecoder::HuffmanFrameDecoder(HuffmanFrameDecoder&&) noexcept = default;
HuffmanFrameDecoder& HuffmanFrameDecoder::operator=(HuffmanFrameDecoder&&) noexcept = default;

bool HuffmanFrameDecoder::Decode(std::span<const std::byte> frame, std::span<std::byte> content) {
  return state_->Decode(frame, content);
}

}  // namespace dsv3::formats
