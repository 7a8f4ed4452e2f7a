#include "formats/fse_weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <optional>

#include "formats/zstd_layout.h"

namespace dsv3::formats {
namespace {

constexpr unsigned kFewestStateBits = 5;
constexpr unsigned kStateBits = 6;  // the most that a stream of weights may have
constexpr unsigned kStates = 1U << kStateBits;
constexpr std::size_t kMostBytes = 127;
constexpr std::size_t kNumWeights = 13;

// How many of the states stand for each weight.
using Shares = std::array<unsigned, kNumWeights>;

// Bits from the lowest of each byte up.
class BitWriter {
 public:
  void Write(unsigned bits, unsigned count) {
    held_ |= bits << num_held_;
    num_held_ += count;
    for (; num_held_ >= 8; num_held_ -= 8, held_ >>= 8) {
      bytes_.push_back(static_cast<std::byte>(held_ & 0xff));
    }
  }
  std::vector<std::byte>& Finish() {
    if (num_held_ > 0) Write(0, 8 - num_held_);
    return bytes_;
  }

 private:
  std::vector<std::byte> bytes_;
  unsigned held_ = 0;
  unsigned num_held_ = 0;
};

// Shares in proportion to the counts, one at least for what occurs; the largest takes what rounding
// leaves.
Shares SharesOf(std::span<const std::uint8_t> weights) {
  std::array<std::size_t, kNumWeights> counts{};
  for (const std::uint8_t weight : weights) ++counts[weight];
  Shares shares{};
  unsigned sum = 0;
  for (std::size_t w = 0; w < kNumWeights; ++w) {
    if (counts[w] == 0) continue;
    const std::size_t rounded = (counts[w] * kStates + weights.size() / 2) / weights.size();
    shares[w] = std::max(1U, static_cast<unsigned>(rounded));
    sum += shares[w];
  }
  // Thirteen at most were rounded up, so the largest share has more than that.
  unsigned& largest = *std::max_element(shares.begin(), shares.end());
  largest = largest + kStates - sum;
  return shares;
}

// How a share is written where `left` states are left: its value is the share and one, for 0 would
// say "less than one state". Values below `spare` take one bit fewer than the others, of which
// those from `half` on are written `spare` higher (4.1.1).
struct ShareForm {
  unsigned bits;
  unsigned spare;
  unsigned half;

  explicit ShareForm(unsigned left)
      : bits(static_cast<unsigned>(std::bit_width(left + 1))),
        spare((1U << bits) - 1 - (left + 1)),
        half((1U << bits) / 2) {}
};

// Behind a share of 0, pairs of bits count the zeros that follow.
void WriteShares(const Shares& shares, BitWriter& out) {
  out.Write(kStateBits - kFewestStateBits, 4);
  unsigned left = kStates;
  for (std::size_t w = 0; left > 0; ++w) {
    const unsigned value = shares[w] + 1;
    const ShareForm form(left);
    if (value < form.spare) {
      out.Write(value, form.bits - 1);
    } else {
      out.Write(value < form.half ? value : value + form.spare, form.bits);
    }
    left -= shares[w];
    if (shares[w] != 0) continue;
    unsigned zeros = 0;
    while (shares[w + 1 + zeros] == 0) ++zeros;
    w += zeros;
    for (; zeros >= 3; zeros -= 3) out.Write(3, 2);
    out.Write(zeros, 2);
  }
}

// The states of each weight, ascending. Shares are spread over the states by a fixed step.
std::array<std::vector<unsigned>, kNumWeights> StatesOf(const Shares& shares,
                                                        unsigned num_states = kStates) {
  const unsigned step = num_states / 2 + num_states / 8 + 3;
  std::array<std::vector<unsigned>, kNumWeights> states;
  unsigned state = 0;
  for (std::size_t w = 0; w < kNumWeights; ++w) {
    for (unsigned i = 0; i < shares[w]; ++i) {
      states[w].push_back(state);
      state = (state + step) % num_states;
    }
    std::sort(states[w].begin(), states[w].end());
  }
  return states;
}

// Bits from the lowest of each byte up; zeros behind the end.
class BitReader {
 public:
  explicit BitReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  // Of at most 8 bits.
  unsigned Peek(unsigned count) const {
    unsigned both = ByteAt(at_ / 8) | ByteAt(at_ / 8 + 1) << 8;
    return both >> (at_ % 8) & ((1U << count) - 1);
  }
  void Skip(std::size_t count) { at_ += count; }
  unsigned Read(unsigned count) {
    const unsigned bits = Peek(count);
    Skip(count);
    return bits;
  }
  // The bytes that were begun; more than there are where bits are missing.
  std::size_t bytes_read() const { return (at_ + 7) / 8; }

 private:
  unsigned ByteAt(std::size_t i) const {
    return i < bytes_.size() ? std::to_integer<unsigned>(bytes_[i]) : 0U;
  }

  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

// What WriteShares wrote, for 2^state_bits states.
std::optional<Shares> ReadShares(unsigned state_bits, BitReader& in) {
  Shares shares{};
  unsigned left = 1U << state_bits;
  for (std::size_t w = 0; left > 0; ++w) {
    if (w >= shares.size()) return std::nullopt;
    const ShareForm form(left);
    unsigned value = in.Peek(form.bits - 1);
    if (value < form.spare) {
      in.Skip(form.bits - 1);
    } else {
      value = in.Read(form.bits);
      if (value >= form.half) value -= form.spare;
    }
    if (value == 0 || value - 1 > left) return std::nullopt;
    shares[w] = value - 1;
    left -= shares[w];
    if (shares[w] != 0) continue;
    unsigned zeros = 0;
    do {
      zeros = in.Read(2);
      w += zeros;
    } while (zeros == 3 && w < shares.size());
  }
  return shares;
}

// What a state stands for, and how the next one is found: `base` and so many bits.
struct State {
  std::uint8_t weight;
  std::uint8_t bits;
  std::uint8_t base;
};

}  // namespace

std::vector<std::byte> EncodeFseWeights(std::span<const std::uint8_t> weights) {
  if (weights.size() < 2) return {};
  const Shares shares = SharesOf(weights);
  if (std::count(shares.begin(), shares.end(), 0U) == std::ssize(shares) - 1) return {};
  const auto states = StatesOf(shares);

  // A decoder reads from the end: both first states, then bits by which a state becomes the one of
  // the weight after next. So the last weights come first here.
  struct Bits {
    unsigned bits;
    unsigned count;
  };
  std::vector<Bits> written;
  std::array<unsigned, 2> current{};
  for (std::size_t i = weights.size(); i-- > 0;) {
    const std::vector<unsigned>& own = states[weights[i]];
    const auto share = static_cast<unsigned>(own.size());
    unsigned& state = current[i % 2];
    if (i + 2 >= weights.size()) {
      // The first of its states always needs bits, so the decoder finds that there are none left.
      state = own.front();
      continue;
    }
    // Of the share's states the k-th leads to all states whose number, with a bit before it, is
    // share + k without its lowest bits.
    const unsigned next = kStates + state;
    unsigned count = kStateBits + 1 - static_cast<unsigned>(std::bit_width(share));
    if (next >> count < share) --count;
    written.push_back({next & ((1U << count) - 1), count});
    state = own[(next >> count) - share];
  }
  BitWriter out;
  WriteShares(shares, out);
  std::vector<std::byte> bytes = out.Finish();
  BitWriter stream;
  for (const Bits& bits : written) stream.Write(bits.bits, bits.count);
  stream.Write(current[1], kStateBits);
  stream.Write(current[0], kStateBits);
  stream.Write(1, 1);  // marks the end
  const std::vector<std::byte>& tail = stream.Finish();
  bytes.insert(bytes.end(), tail.begin(), tail.end());
  if (bytes.size() > kMostBytes) return {};
  return bytes;
}

std::vector<std::uint8_t> DecodeFseWeights(std::span<const std::byte> stream) {
  BitReader head(stream);
  const unsigned state_bits = head.Read(4) + kFewestStateBits;
  if (state_bits > kStateBits) return {};
  const std::optional<Shares> shares = ReadShares(state_bits, head);
  if (!shares || head.bytes_read() >= stream.size()) return {};
  stream = stream.subspan(head.bytes_read());
  const unsigned num_states = 1U << state_bits;
  const auto states_of = StatesOf(*shares, num_states);
  std::array<State, kStates> states{};
  for (std::size_t w = 0; w < states_of.size(); ++w) {
    const auto share = static_cast<unsigned>(states_of[w].size());
    for (unsigned k = 0; k < share; ++k) {
      const unsigned bits = state_bits + 1 - static_cast<unsigned>(std::bit_width(share + k));
      states[states_of[w][k]] = {
          .weight = static_cast<std::uint8_t>(w),
          .bits = static_cast<std::uint8_t>(bits),
          .base = static_cast<std::uint8_t>(((share + k) << bits) - num_states)};
    }
  }
  std::size_t left = ZstdStreamBits(stream);
  const auto read = [&](unsigned count) {
    left -= count;
    BitReader bits(stream);
    bits.Skip(left);
    return bits.Read(count);
  };
  if (left < 2 * std::size_t{state_bits}) return {};
  std::array<unsigned, 2> current{};
  current[0] = read(state_bits);
  current[1] = read(state_bits);
  constexpr std::size_t kMostWeights = 255;
  std::vector<std::uint8_t> weights;
  for (unsigned i = 0;; i ^= 1) {
    const State& state = states[current[i]];
    weights.push_back(state.weight);
    if (state.bits > left) {
      weights.push_back(states[current[i ^ 1]].weight);
      break;
    }
    if (weights.size() >= kMostWeights) return {};
    current[i] = state.base + read(state.bits);
  }
  if (left != 0 || weights.size() > kMostWeights) return {};
  return weights;
}

}  // namespace dsv3::formats
