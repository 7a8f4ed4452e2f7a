#include "formats/symbol_table.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "formats/zstd_layout.h"

namespace dsv3::formats {
namespace {

// So that all is compiled for the instructions of the function that uses it.
#define DSV3_INLINE __attribute__((always_inline)) inline

constexpr unsigned kSymbols = 4;  // the most of an entry
constexpr unsigned kCountShift = 8;
constexpr unsigned kSymbolsShift = 32;

// What is between two refills: after whole bytes were passed over, 8 bits of the 64 may be used,
// and one marks the end.
constexpr unsigned kLookups = 5;
static_assert(8 + kLookups * kLongestHuffmanCode + 1 <= 64);

// A stream that is read from its end on, and what it fills.
struct Reader {
  const std::byte* begin;
  const std::byte* at;  // the eight bytes that are held
  // The bits to come from the highest on, then a one, then as many zeros as bits were used.
  std::uint64_t held;
  std::byte* out;
  std::byte* end;
};

DSV3_INLINE std::uint64_t Load(const std::byte* at, unsigned used) {
  std::uint64_t bytes = 0;
  std::memcpy(&bytes, at, sizeof bytes);
  return (bytes | 1) << used;
}

DSV3_INLINE void Refill(Reader& reader) {
  const auto used = static_cast<unsigned>(std::countr_zero(reader.held));
  reader.at -= used >> 3;
  reader.held = Load(reader.at, used & 7);
}

DSV3_INLINE void DecodeOne(Reader& reader, std::byte* out, const std::uint16_t* entries) {
  const std::uint64_t entry = entries[reader.held >> (64 - kLongestHuffmanCode)];
  *out = static_cast<std::byte>(entry >> 8);
  reader.held <<= entry & 63;
}

DSV3_INLINE void DecodeSeveral(Reader& reader, const std::uint64_t* entries) {
  const std::uint64_t entry = entries[reader.held >> (64 - kLongestHuffmanCode)];
  const auto symbols = static_cast<std::uint32_t>(entry >> kSymbolsShift);
  std::memcpy(reader.out, &symbols, sizeof symbols);
  reader.out += entry >> kCountShift & 0xff;
  reader.held <<= entry & 63;
}

// How often the lookups of one refill find their bytes, and room for so many symbols each.
DSV3_INLINE std::ptrdiff_t SafeRounds(const Reader& reader, std::ptrdiff_t symbols) {
  constexpr std::ptrdiff_t kMostBytes = 8;
  return std::min((reader.at - reader.begin) / kMostBytes,
                  (reader.end - reader.out) / (std::ptrdiff_t{kLookups} * symbols));
}

// The 11 bits before bit `left` of a stream, zeros before its beginning.
std::size_t Peek(std::span<const std::byte> stream, std::size_t left) {
  const std::size_t low = left - std::min<std::size_t>(left, kLongestHuffmanCode);
  std::uint64_t bytes = 0;
  std::memcpy(&bytes, stream.data() + low / 8,
              std::min<std::size_t>(sizeof(std::uint32_t), stream.size() - low / 8));
  const std::uint64_t bits = bytes >> (low % 8) & ((std::uint64_t{1} << (left - low)) - 1);
  return bits << (kLongestHuffmanCode - (left - low));
}

// Decodes what is left of a stream, symbol by symbol.
bool DecodeRest(std::span<const std::byte> stream, std::size_t left, std::byte* out, std::byte* end,
                const std::uint16_t* entries) {
  for (; out < end; ++out) {
    const unsigned entry = entries[Peek(stream, left)];
    const std::size_t bits = entry & 0xff;
    if (bits > left) return false;
    *out = static_cast<std::byte>(entry >> 8);
    left -= bits;
  }
  return left == 0;
}

// Decodes nearly all of four streams side by side: a symbol of a stream waits for the one before
// it.
DSV3_INLINE void DecodeSingle(std::array<Reader, 4>& readers, const std::uint16_t* entries) {
  auto [a, b, c, d] = readers;
  // All streams advance by as many symbols.
  const std::ptrdiff_t quarter = b.out - a.out;
  std::byte* out = a.out;
  while (true) {
    const std::ptrdiff_t rounds = std::min(std::min(SafeRounds(a, 1), SafeRounds(b, 1)),
                                           std::min(SafeRounds(c, 1), SafeRounds(d, 1)));
    if (rounds == 0) break;
    const std::byte* const end = out + rounds * std::ptrdiff_t{kLookups};
    for (; out != end; out += kLookups) {
      for (unsigned i = 0; i < kLookups; ++i) {
        DecodeOne(a, out + i, entries);
        DecodeOne(b, out + quarter + i, entries);
        DecodeOne(c, out + 2 * quarter + i, entries);
        DecodeOne(d, out + 3 * quarter + i, entries);
      }
      Refill(a);
      Refill(b);
      Refill(c);
      Refill(d);
    }
    a.out = out;
    b.out = out + quarter;
    c.out = out + 2 * quarter;
    d.out = out + 3 * quarter;
  }
  readers = {a, b, c, d};
}

// The same where most entries hold several symbols.
DSV3_INLINE void DecodeMultiple(std::array<Reader, 4>& readers, const std::uint64_t* entries) {
  auto [a, b, c, d] = readers;
  while (true) {
    const std::ptrdiff_t rounds =
        std::min(std::min(SafeRounds(a, kSymbols), SafeRounds(b, kSymbols)),
                 std::min(SafeRounds(c, kSymbols), SafeRounds(d, kSymbols)));
    if (rounds == 0) break;
    for (std::ptrdiff_t round = 0; round < rounds; ++round) {
      for (unsigned i = 0; i < kLookups; ++i) {
        DecodeSeveral(a, entries);
        DecodeSeveral(b, entries);
        DecodeSeveral(c, entries);
        DecodeSeveral(d, entries);
      }
      Refill(a);
      Refill(b);
      Refill(c);
      Refill(d);
    }
  }
  readers = {a, b, c, d};
}

// Streams that are still to be decoded after those, each alone.
DSV3_INLINE void DecodeLonger(Reader& reader, const std::uint64_t* entries) {
  Reader one = reader;
  while (SafeRounds(one, kSymbols) > 0) {
    for (unsigned i = 0; i < kLookups; ++i) DecodeSeveral(one, entries);
    Refill(one);
  }
  reader = one;
}

DSV3_INLINE void DecodeMost(std::array<Reader, 4>& readers, const std::uint16_t* single,
                            const std::uint64_t* multiple) {
  if (multiple != nullptr) {
    DecodeMultiple(readers, multiple);
    for (Reader& reader : readers) DecodeLonger(reader, multiple);
  } else {
    DecodeSingle(readers, single);
  }
}

void DecodePlainly(std::array<Reader, 4>& readers, const std::uint16_t* single,
                   const std::uint64_t* multiple) {
  DecodeMost(readers, single, multiple);
}

#if defined(__x86_64__)
// Shifts by a number in any register are BMI2's, the count of zeros without a branch is BMI's.
__attribute__((target("bmi,bmi2"))) void DecodeByBmi(std::array<Reader, 4>& readers,
                                                     const std::uint16_t* single,
                                                     const std::uint64_t* multiple) {
  DecodeMost(readers, single, multiple);
}

const auto kDecode = __builtin_cpu_supports("bmi") != 0 && __builtin_cpu_supports("bmi2") != 0
                         ? DecodeByBmi
                         : DecodePlainly;
#else
constexpr auto kDecode = DecodePlainly;
#endif

}  // namespace

void SymbolTable::Set(const std::array<std::uint8_t, 256>& lengths) {
  // Codes ascend from the longest on, and by symbol where they are as long.
  std::array<std::size_t, kLongestHuffmanCode + 1> shares{};
  for (const std::uint8_t length : lengths) shares[length] += kEntries >> length;
  std::array<std::size_t, kLongestHuffmanCode + 1> next{};  // entry of each length
  for (unsigned length = kLongestHuffmanCode; length > 1; --length) {
    next[length - 1] = next[length] + shares[length];
  }
  for (std::size_t symbol = 0; symbol < lengths.size(); ++symbol) {
    const unsigned length = lengths[symbol];
    const std::size_t share = kEntries >> length;
    if (length == 0 || next[length] + share > kEntries) continue;
    std::fill_n(single_.begin() + static_cast<std::ptrdiff_t>(next[length]), share,
                static_cast<std::uint16_t>(symbol << 8 | length));
    next[length] += share;
  }
  is_made_ = false;
}

const std::uint64_t* SymbolTable::Multiple(std::size_t symbols) {
  if (symbols < kEntries) return nullptr;
  if (is_made_) return use_multiple_ ? multiple_.data() : nullptr;
  is_made_ = true;
  // Bits of a pattern that are known, behind those that its first symbols used, say the next symbol
  // where its code is not longer than they are.
  std::size_t held = 0;
  for (std::size_t i = 0; i < kEntries; ++i) {
    std::uint64_t entry = 0;
    unsigned used = 0;
    unsigned count = 0;
    for (; count < kSymbols && used < kLongestHuffmanCode; ++count) {
      const std::uint64_t next = single_[i << used & (kEntries - 1)];
      const auto bits = static_cast<unsigned>(next & 0xff);
      if (used + bits > kLongestHuffmanCode) break;
      entry |= next >> 8 << (kSymbolsShift + 8 * count);
      used += bits;
    }
    multiple_[i] = entry | count << kCountShift | used;
    held += count;
  }
  // An entry of several symbols takes half as long again.
  use_multiple_ = held > kEntries + kEntries / 2;
  return use_multiple_ ? multiple_.data() : nullptr;
}

bool SymbolTable::DecodeStream(std::span<const std::byte> stream, std::span<std::byte> out) const {
  const std::size_t bits = ZstdStreamBits(stream);
  return bits != 0 && DecodeRest(stream, bits, out.data(), out.data() + out.size(), single_.data());
}

bool SymbolTable::DecodeFourStreams(std::span<const std::byte> streams, std::span<std::byte> out) {
  constexpr std::size_t kHeld = sizeof(std::uint64_t);
  const std::size_t quarter = ZstdSymbolsOfStream(out.size());
  if (streams.size() < kZstdJumpTableBytes || 3 * quarter > out.size()) return false;
  std::array<std::uint16_t, 3> sizes{};
  std::memcpy(sizes.data(), streams.data(), kZstdJumpTableBytes);
  std::span<const std::byte> rest = streams.subspan(kZstdJumpTableBytes);
  std::array<std::span<const std::byte>, 4> of_streams;
  std::array<std::size_t, 4> left{};  // bits
  bool are_long = true;
  for (std::size_t i = 0; i < of_streams.size(); ++i) {
    const std::size_t size = i < sizes.size() ? sizes[i] : rest.size();
    if (size > rest.size()) return false;
    of_streams[i] = rest.first(size);
    rest = rest.subspan(size);
    left[i] = ZstdStreamBits(of_streams[i]);
    if (left[i] == 0) return false;
    are_long = are_long && size >= kHeld;
  }
  std::array<std::byte*, 4> at{};
  for (std::size_t i = 0; i < at.size(); ++i) at[i] = out.data() + i * quarter;
  const std::array<std::byte*, 4> ends = {at[1], at[2], at[3], out.data() + out.size()};
  if (are_long) {
    std::array<Reader, 4> readers;
    for (std::size_t i = 0; i < readers.size(); ++i) {
      const std::span<const std::byte> stream = of_streams[i];
      const std::byte* const last = stream.data() + stream.size() - kHeld;
      const auto used = static_cast<unsigned>(8 * stream.size() - left[i]);
      readers[i] = {stream.data(), last, Load(last, used), at[i], ends[i]};
    }
    kDecode(readers, single_.data(), Multiple(out.size()));
    for (std::size_t i = 0; i < readers.size(); ++i) {
      const auto used = static_cast<std::size_t>(std::countr_zero(readers[i].held));
      left[i] = 8 * (static_cast<std::size_t>(readers[i].at - readers[i].begin) + kHeld) - used;
      at[i] = readers[i].out;
    }
  }
  for (std::size_t i = 0; i < at.size(); ++i) {
    if (!DecodeRest(of_streams[i], left[i], at[i], ends[i], single_.data())) return false;
  }
  return true;
}

}  // namespace dsv3::formats
