#include "formats/hash/crc32.h"

#include <array>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dsv3::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "eight bytes are taken as one number");

constexpr std::size_t kStep = 8;

// kTables[k][b] is the CRC of byte b followed by k zeros: eight bytes are looked up side by side.
constexpr auto kTables = [] {
  std::array<std::array<std::uint32_t, 256>, kStep> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB8'8320U : 0U);
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < kStep; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = before >> 8 ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}();

std::uint32_t ByTables(std::span<const std::byte> data, std::uint32_t state) {
  while (data.size() >= kStep) {
    std::uint64_t word = 0;
    std::memcpy(&word, data.data(), sizeof word);
    word ^= state;
    state = 0;
    for (std::size_t k = 0; k < kStep; ++k) {
      state ^= kTables[kStep - 1 - k][word >> (8 * k) & 0xFF];
    }
    data = data.subspan(kStep);
  }
  for (const std::byte byte : data) {
    state = state >> 8 ^ kTables[0][(state ^ static_cast<std::uint32_t>(byte)) & 0xFF];
  }
  return state;
}

// Numbers are polynomials over GF(2), the highest bit the coefficient of x^0.
constexpr std::uint32_t kOne = 0x8000'0000U;

constexpr std::uint32_t TimesX(std::uint32_t a) {
  return a >> 1 ^ ((a & 1) != 0 ? 0xEDB8'8320U : 0U);
}

// a · b modulo the CRC's polynomial.
constexpr std::uint32_t Times(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (std::uint32_t bit = kOne; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = TimesX(b);
  }
  return product;
}

// x^(8 · 2^k), for the lengths that 64 bits can count.
constexpr auto kPowers = [] {
  std::array<std::uint32_t, 64> powers{};
  std::uint32_t power = kOne;
  for (int i = 0; i < 8; ++i) power = TimesX(power);
  for (std::uint32_t& each : powers) {
    each = power;
    power = Times(power, power);
  }
  return powers;
}();

#if defined(__x86_64__)

// x^n as the multiplication of reflected numbers wants it.
constexpr long long FoldBy(int n) {
  std::uint64_t power = kOne;
  for (int i = 0; i < n; ++i) power = TimesX(static_cast<std::uint32_t>(power));
  power <<= 1;
  return static_cast<long long>(power);
}

#define DSV3_CLMUL __attribute__((target("pclmul,sse4.1")))
#define DSV3_CLMUL_INLINE __attribute__((target("pclmul,sse4.1"), always_inline)) inline

bool HasClmul() {
  static const bool has =
      __builtin_cpu_supports("pclmul") != 0 && __builtin_cpu_supports("sse4.1") != 0;
  return has;
}

DSV3_CLMUL_INLINE __m128i Load(const std::byte* data) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data));
}

// 128 bits, moved over the bits that `by` is for, and the bits that lie there.
DSV3_CLMUL_INLINE __m128i Fold(__m128i value, __m128i by, __m128i next) {
  return _mm_xor_si128(next, _mm_xor_si128(_mm_clmulepi64_si128(value, by, 0x00),
                                           _mm_clmulepi64_si128(value, by, 0x11)));
}

constexpr std::size_t kLanes = 4;
constexpr std::size_t kLaneBytes = 16;
constexpr std::size_t kFoldBytes = kLanes * kLaneBytes;

// Takes whole 64 bytes of `data`, at least once, and returns the state behind them.
DSV3_CLMUL std::uint32_t ByClmul(std::span<const std::byte>& data, std::uint32_t state) {
  const __m128i far = _mm_set_epi64x(FoldBy(8 * kFoldBytes - 32), FoldBy(8 * kFoldBytes + 32));
  const __m128i near = _mm_set_epi64x(FoldBy(8 * kLaneBytes - 32), FoldBy(8 * kLaneBytes + 32));
  __m128i lanes[kLanes];
  for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = Load(data.data() + i * kLaneBytes);
  lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128(static_cast<int>(state)));
  data = data.subspan(kFoldBytes);
  while (data.size() >= kFoldBytes) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      lanes[i] = Fold(lanes[i], far, Load(data.data() + i * kLaneBytes));
    }
    data = data.subspan(kFoldBytes);
  }
  for (std::size_t i = 1; i < kLanes; ++i) lanes[i] = Fold(lanes[i - 1], near, lanes[i]);
  std::array<std::byte, kLaneBytes> rest;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(rest.data()), lanes[kLanes - 1]);
  return ByTables(rest, 0);
}

#endif

}  // namespace

std::uint32_t Crc32(std::span<const std::byte> data, std::uint32_t crc) {
  std::uint32_t state = ~crc;
#if defined(__x86_64__)
  if (data.size() >= kFoldBytes && HasClmul()) state = ByClmul(data, state);
#endif
  return ~ByTables(data, state);
}

std::uint32_t Crc32Before(std::uint32_t crc, std::uint64_t bytes_behind) {
  for (std::size_t k = 0; bytes_behind != 0; ++k, bytes_behind >>= 1) {
    if ((bytes_behind & 1) != 0) crc = Times(kPowers[k], crc);
  }
  return crc;
}

}  // namespace dsv3::formats
