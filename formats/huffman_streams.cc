#include "formats/huffman_streams.h"

#include <algorithm>
#include <cstring>

#include "formats/zstd_layout.h"

namespace dsv3::formats {
namespace {

// So that all is compiled for the instructions of the function that uses it.
#define DSV3_INLINE __attribute__((always_inline)) inline

// A stream in the making. The last `bits` bits that were put are the highest of `held`; what lies
// below them has no meaning.
struct Stream {
  const std::byte* begin;
  const std::byte* end;  // the symbols before it are to be put
  std::byte* out;
  std::uint64_t held = 0;
  std::uint64_t bits = 0;
};

DSV3_INLINE void Put(Stream& stream, std::uint64_t code) {
  stream.held = stream.held >> (code & 63) | code;
  stream.bits += code;
}

// Writes whole bytes out. Precondition: 1 to 56 bits are held.
DSV3_INLINE void Flush(Stream& stream) {
  stream.bits &= 0xff;
  const std::uint64_t low = stream.held >> ((64 - stream.bits) & 63);
  std::memcpy(stream.out, &low, sizeof low);
  stream.out += stream.bits >> 3;
  stream.bits &= 7;
}

constexpr std::ptrdiff_t kSymbolsAFlush = 4;
static_assert(7 + kSymbolsAFlush * kLongestHuffmanCode <= 56);

DSV3_INLINE void PutFour(Stream& stream, const StreamCodes& codes) {
  stream.end -= kSymbolsAFlush;
  for (std::ptrdiff_t i = kSymbolsAFlush; i-- > 0;) Put(stream, codes.Of(stream.end[i]));
  Flush(stream);
}

DSV3_INLINE void PutFourAsPairs(Stream& stream, const std::uint64_t* pairs) {
  stream.end -= kSymbolsAFlush;
  std::uint32_t symbols = 0;
  std::memcpy(&symbols, stream.end, sizeof symbols);
  Put(stream, pairs[symbols >> 16]);
  Put(stream, pairs[symbols & 0xffff]);
  Flush(stream);
}

// Puts the symbols that are left and the mark. Returns the end of the stream.
std::byte* Finish(Stream& stream, const StreamCodes& codes) {
  while (stream.end - stream.begin >= kSymbolsAFlush) PutFour(stream, codes);
  while (stream.end != stream.begin) Put(stream, codes.Of(*--stream.end));
  constexpr std::uint64_t kMark = std::uint64_t{1} << 63 | 1;
  Put(stream, kMark);
  Flush(stream);
  return stream.out + (stream.bits != 0 ? 1 : 0);
}

// Puts nearly all of two streams side by side: a symbol of a stream waits for the one before it.
DSV3_INLINE void PutBoth(Stream& first, Stream& second, const StreamCodes& codes) {
  Stream a = first;
  Stream b = second;
  const std::uint64_t* const pairs = codes.pairs();
  const auto rounds =
      static_cast<std::size_t>(std::min(a.end - a.begin, b.end - b.begin) / kSymbolsAFlush);
  if (pairs != nullptr) {
    for (std::size_t i = 0; i < rounds; ++i) {
      PutFourAsPairs(a, pairs);
      PutFourAsPairs(b, pairs);
    }
  } else {
    for (std::size_t i = 0; i < rounds; ++i) {
      PutFour(a, codes);
      PutFour(b, codes);
    }
  }
  first = a;
  second = b;
}

void PutBothPlainly(Stream& first, Stream& second, const StreamCodes& codes) {
  PutBoth(first, second, codes);
}

#if defined(__x86_64__)
// Shifts by a number in any register are BMI2's.
__attribute__((target("bmi2"))) void PutBothByBmi2(Stream& first, Stream& second,
                                                   const StreamCodes& codes) {
  PutBoth(first, second, codes);
}

const auto kPutBoth = __builtin_cpu_supports("bmi2") != 0 ? PutBothByBmi2 : PutBothPlainly;
#else
constexpr auto kPutBoth = PutBothPlainly;
#endif

Stream StreamOf(std::span<const std::byte> content, std::byte* out) {
  return {.begin = content.data(), .end = content.data() + content.size(), .out = out};
}

}  // namespace

void CountBytes(std::span<const std::byte> content, ByteCounts& counts) {
  // A counter is not read again soon after it was written.
  constexpr std::size_t kTables = 8;
  std::array<ByteCounts, kTables> tables{};
  const std::byte* at = content.data();
  std::size_t left = content.size();
  for (; left >= 2 * kTables; left -= 2 * kTables, at += 2 * kTables) {
    std::uint64_t first = 0;
    std::uint64_t second = 0;
    std::memcpy(&first, at, sizeof first);
    std::memcpy(&second, at + sizeof first, sizeof second);
    for (std::size_t i = 0; i < kTables; ++i) ++tables[i][first >> (8 * i) & 0xff];
    for (std::size_t i = 0; i < kTables; ++i) ++tables[i][second >> (8 * i) & 0xff];
  }
  for (; left > 0; --left) ++tables[0][std::to_integer<std::size_t>(*at++)];
  for (std::size_t symbol = 0; symbol < counts.size(); ++symbol) {
    std::uint32_t sum = 0;
    for (const ByteCounts& table : tables) sum += table[symbol];
    counts[symbol] = sum;
  }
}

void StreamCodes::Set(const HuffmanCode& code, bool pairs) {
  std::vector<std::size_t> present;
  for (std::size_t symbol = 0; symbol < symbols_.size(); ++symbol) {
    const unsigned length = code.lengths[symbol];
    if (length == 0) continue;
    symbols_[symbol] = std::uint64_t{code.codes[symbol]} << (64 - length) | length;
    present.push_back(symbol);
  }
  has_pairs_ = pairs && present.size() <= kMostPaired;
  if (!has_pairs_) return;
  if (!pairs_) pairs_ = std::make_unique_for_overwrite<std::uint64_t[]>(std::size_t{1} << 16);
  for (const std::size_t second : present) {
    for (const std::size_t first : present) {
      const unsigned length = code.lengths[first] + code.lengths[second];
      const std::uint64_t bits = std::uint64_t{code.codes[first]} << code.lengths[second] |
                                 std::uint64_t{code.codes[second]};
      pairs_[first + 256 * second] = bits << (64 - length) | length;
    }
  }
}

std::size_t EncodeStream(std::span<const std::byte> content, const StreamCodes& codes,
                         std::byte* out) {
  Stream stream = StreamOf(content, out);
  return static_cast<std::size_t>(Finish(stream, codes) - out);
}

std::array<std::size_t, 4> EncodeFourStreams(std::span<const std::byte> content,
                                             const StreamCodes& codes,
                                             std::vector<std::byte>& buffer, std::byte* out) {
  const std::size_t quarter = ZstdSymbolsOfStream(content.size());
  const std::size_t room = quarter * kLongestHuffmanCode / 8 + 1 + sizeof(std::uint64_t);
  if (buffer.size() < room) buffer.resize(room);
  std::array<std::size_t, 4> bytes{};
  for (std::size_t i = 0; i < 4; i += 2) {
    Stream a = StreamOf(content.subspan(i * quarter, quarter), out);
    const std::size_t second = (i + 1) * quarter;
    Stream b = StreamOf(content.subspan(second, std::min(quarter, content.size() - second)),
                        buffer.data());
    kPutBoth(a, b, codes);
    bytes[i] = static_cast<std::size_t>(Finish(a, codes) - out);
    out += bytes[i];
    bytes[i + 1] = static_cast<std::size_t>(Finish(b, codes) - buffer.data());
    std::memcpy(out, buffer.data(), bytes[i + 1]);
    out += bytes[i + 1];
  }
  return bytes;
}

}  // namespace dsv3::formats
