#include "formats/huffman_frame.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "formats/huffman_code.h"
#include "formats/huffman_streams.h"
#include "formats/zstd_layout.h"

namespace dsv3::formats {
namespace {

// A block's literals are one stream of codes up to this size, else four (RFC 8878, 3.1.1.3.1.1).
constexpr std::size_t kOneStream = 255;
// The most bytes of a block beside codes and their description: the section's head, the sizes of
// streams, the mark of each, and the byte that says that there are no sequences.
constexpr std::size_t kMostOverhead = 5 + kZstdJumpTableBytes + 4 + 1;

// log2 in 1/256 bits, by repeated squaring of the mantissa, so that it is the same everywhere.
constexpr std::array<std::uint16_t, 257> kFractions = [] {
  std::array<std::uint16_t, 257> fractions{};
  for (std::uint64_t i = 0; i <= 256; ++i) {
    std::uint64_t mantissa = (256 + i) << 24;  // in [1, 2], with 32 bits behind the point
    unsigned bits = 0;
    for (int k = 0; k < 8; ++k) {
      mantissa = (mantissa >> 16) * (mantissa >> 16);
      bits <<= 1;
      if (mantissa >= std::uint64_t{2} << 32) {
        mantissa >>= 1;
        ++bits;
      }
    }
    fractions[i] = static_cast<std::uint16_t>(i == 256 ? 256 : bits);
  }
  return fractions;
}();

// Of a number above 0.
std::uint64_t Log2(std::uint32_t number) {
  const auto whole = static_cast<unsigned>(std::bit_width(number | 1)) - 1;
  const std::uint32_t mantissa = whole >= 8 ? number >> (whole - 8) : number << (8 - whole);
  return whole * 256 + kFractions[mantissa - 256];
}

// About the bytes that symbols with these counts take at least.
std::size_t EntropyBytes(const ByteCounts& counts, std::size_t total) {
  const std::uint64_t of_total = Log2(static_cast<std::uint32_t>(total));
  std::uint64_t bits = 0;
  for (const std::uint32_t count : counts) {
    if (count != 0) bits += count * (of_total - std::min(of_total, Log2(count)));
  }
  return bits / 256 / 8;
}

// The bytes of the codes of symbols with these counts; nothing where one of them has no code.
std::optional<std::size_t> CodedBytes(const HuffmanCode& code, const ByteCounts& counts) {
  std::uint64_t bits = 0;
  bool missing = false;
  for (std::size_t symbol = 0; symbol < counts.size(); ++symbol) {
    bits += std::uint64_t{counts[symbol]} * code.lengths[symbol];
    missing |= counts[symbol] != 0 && code.lengths[symbol] == 0;
  }
  if (missing) return std::nullopt;
  return bits / 8;
}

// A code with its description and what the streams are made with.
struct BlockCode {
  HuffmanCode code;
  std::vector<std::byte> description;  // empty where there is none
  StreamCodes streams;

  // Of symbols with these counts, for about so many bytes.
  void Set(const ByteCounts& counts, std::size_t bytes) {
    constexpr std::size_t kWorthPairs = std::size_t{1} << 17;
    code = MakeHuffmanCode(counts);
    description = DescribeHuffmanCode(code);
    streams.Set(code, bytes >= kWorthPairs);
  }
};

std::span<const std::byte> BlockOf(std::span<const std::byte> content, std::size_t block) {
  const std::size_t begin = block * kZstdBlockBytes;
  return content.subspan(begin, std::min(kZstdBlockBytes, content.size() - begin));
}

}  // namespace

class HuffmanFrameEncoder::State {
 public:
  std::size_t Encode(std::span<const std::byte> content, std::span<std::byte> out);

 private:
  bool IsLikelyShorter(const ByteCounts& counts, std::size_t n, std::size_t bytes) const;
  void PutBlock(std::span<const std::byte> block, const ByteCounts& counts, bool last,
                std::byte*& out);
  void PutCoded(std::span<const std::byte> block, const BlockCode& code, bool describe, bool last,
                std::byte*& out);

  std::vector<ByteCounts> counts_;  // of each block
  BlockCode of_all_;                // made from the counts of all blocks
  bool has_code_ = false;           // whether there are two symbols at least
  std::size_t of_all_excess_ = 0;   // its bytes above the entropy, in 1/1024 of that
  BlockCode own_;                   // of one block
  BlockCode candidate_;
  const BlockCode* known_ = nullptr;  // what the decoder has
  std::vector<std::byte> streams_;
};

std::size_t HuffmanFrameEncoder::State::Encode(std::span<const std::byte> content,
                                               std::span<std::byte> out) {
  std::byte* at = out.data();
  PutZstdFrameHead(content.size(), at);
  known_ = nullptr;
  const std::size_t blocks = content.empty() ? 1 : (content.size() - 1) / kZstdBlockBytes + 1;
  counts_.resize(blocks);
  ByteCounts all{};
  for (std::size_t i = 0; i < blocks; ++i) {
    CountBytes(BlockOf(content, i), counts_[i]);
    for (std::size_t symbol = 0; symbol < all.size(); ++symbol) all[symbol] += counts_[i][symbol];
  }
  has_code_ = std::count(all.begin(), all.end(), 0U) < std::ssize(all) - 1;
  if (has_code_) {
    of_all_.Set(all, content.size());
    const std::size_t entropy = EntropyBytes(all, content.size());
    const std::size_t coded = CodedBytes(of_all_.code, all).value_or(entropy);
    of_all_excess_ = (coded - std::min(coded, entropy)) * 1024 / std::max<std::size_t>(entropy, 1);
  }
  for (std::size_t i = 0; i < blocks; ++i) {
    PutBlock(BlockOf(content, i), counts_[i], i + 1 == blocks, at);
  }
  PutZstdChecksum(content, at);
  return static_cast<std::size_t>(at - out.data());
}

// Whether a code of the block's own is likely to make less than `bytes` of it: where it comes as
// near to the entropy as the code of all blocks does.
bool HuffmanFrameEncoder::State::IsLikelyShorter(const ByteCounts& counts, std::size_t n,
                                                 std::size_t bytes) const {
  const std::size_t entropy = EntropyBytes(counts, n);
  return entropy + entropy / 1024 * of_all_excess_ + of_all_.description.size() + n / 1024 < bytes;
}

// Puts the block in the form that is shortest.
void HuffmanFrameEncoder::State::PutBlock(std::span<const std::byte> block,
                                          const ByteCounts& counts, bool last, std::byte*& out) {
  const std::size_t n = block.size();
  // Less than this is not worth the time that decoding takes.
  const std::size_t gain = n / 64 + 2;
  if (n <= 1) return PutZstdRawBlock(block, last, out);
  if (counts[std::to_integer<std::size_t>(block[0])] == n) {
    PutZstdBlockHead(ZstdBlock::kRepeated, n, last, out);
    return PutZstd(std::to_integer<std::uint64_t>(block[0]), 1, out);
  }
  constexpr std::size_t kNever = std::size_t{0} - 1;
  const auto described = [&](const BlockCode& code) {
    const std::optional<std::size_t> bytes = CodedBytes(code.code, counts);
    return bytes && !code.description.empty() ? *bytes + code.description.size() : kNever;
  };
  const BlockCode* best = nullptr;
  std::size_t bytes = kNever;
  bool describe = false;
  const auto consider = [&](const BlockCode& code, std::size_t takes, bool is_new) {
    if (takes >= bytes) return;
    best = &code;
    bytes = takes;
    describe = is_new;
  };
  if (known_ != nullptr) {
    consider(*known_, CodedBytes(known_->code, counts).value_or(kNever), false);
  }
  if (has_code_ && known_ != &of_all_) consider(of_all_, described(of_all_), true);
  if (has_code_ && counts_.size() > 1 && IsLikelyShorter(counts, n, bytes)) {
    candidate_.Set(counts, n);
    consider(candidate_, described(candidate_), true);
  }
  if (best == nullptr || bytes + kMostOverhead + gain >= n) {
    return PutZstdRawBlock(block, last, out);
  }
  if (best == &candidate_) {
    std::swap(own_, candidate_);
    best = &own_;
  }
  PutCoded(block, *best, describe, last, out);
  known_ = best;
}

void HuffmanFrameEncoder::State::PutCoded(std::span<const std::byte> block, const BlockCode& code,
                                          bool describe, bool last, std::byte*& out) {
  std::byte* const head = out;
  out += kZstdBlockHeadBytes;
  const std::size_t n = block.size();
  const unsigned format = n <= kOneStream ? 0 : n < 1U << 10 ? 1 : n < 1U << 14 ? 2 : 3;
  const unsigned size_bits = ZstdLiteralsSizeBits(format);
  std::byte* const section = out;
  const std::size_t section_head = ZstdLiteralsHeadBytes(format);
  out += section_head;
  std::byte* const coded = out;
  if (describe) {
    std::memcpy(out, code.description.data(), code.description.size());
    out += code.description.size();
  }
  if (format == 0) {
    out += EncodeStream(block, code.streams, out);
  } else {
    std::byte* jumps = out;
    out += kZstdJumpTableBytes;
    const std::array<std::size_t, 4> bytes = EncodeFourStreams(block, code.streams, streams_, out);
    for (std::size_t i = 0; i < 3; ++i) PutZstd(bytes[i], 2, jumps);
    for (const std::size_t of_stream : bytes) out += of_stream;
  }
  const auto kind = describe ? ZstdLiterals::kWithCode : ZstdLiterals::kWithCodeOfBefore;
  std::byte* at = section;
  PutZstd(static_cast<unsigned>(kind) | format << 2 | n << 4 |
              static_cast<std::uint64_t>(out - coded) << (4 + size_bits),
          section_head, at);
  PutZstd(0, 1, out);  // no sequences: the literals are the content
  at = head;
  PutZstdBlockHead(ZstdBlock::kCompressed,
                   static_cast<std::size_t>(out - head) - kZstdBlockHeadBytes, last, at);
}

HuffmanFrameEncoder::HuffmanFrameEncoder() : state_(std::make_unique<State>()) {}
HuffmanFrameEncoder::~HuffmanFrameEncoder() = default;
HuffmanFrameEncoder::HuffmanFrameEncoder(HuffmanFrameEncoder&&) noexcept = default;
HuffmanFrameEncoder& HuffmanFrameEncoder::operator=(HuffmanFrameEncoder&&) noexcept = default;

std::size_t HuffmanFrameEncoder::Encode(std::span<const std::byte> content,
                                        std::span<std::byte> out) {
  return state_->Encode(content, out);
}

}  // namespace dsv3::formats
