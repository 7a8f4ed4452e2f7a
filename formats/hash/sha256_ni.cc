#include "formats/hash/sha256_ni.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

namespace dsv3::formats::sha256_ni {
namespace {

// Each function names its instruction set, so that the rest of the program keeps to the baseline.
#define DSV3_SHA __attribute__((target("sha,sse4.1,ssse3")))
#define DSV3_SHA_INLINE __attribute__((target("sha,sse4.1,ssse3"), always_inline)) inline

alignas(16) constexpr std::uint32_t kRoundConstants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

// A stream while it is compressed. The instructions want the eight state words in two registers, in
// this order from the highest word down.
struct Registers {
  __m128i abef;
  __m128i cdgh;
  __m128i abef_before;
  __m128i cdgh_before;
  __m128i words[4];      // the last 16 words of the message schedule, in rotation
  __m128i words_plus_k;  // what the current four rounds add
  const std::byte* block;
};

DSV3_SHA_INLINE void Load(Registers& r, const Lane& lane) {
  const auto* state = reinterpret_cast<const __m128i*>(lane.state->data());
  const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128(state), 0xB1);
  const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(state + 1), 0x1B);
  r.abef = _mm_alignr_epi8(cdab, efgh, 8);
  r.cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);
  r.block = lane.data;
}

DSV3_SHA_INLINE void Store(const Registers& r, Lane& lane) {
  auto* state = reinterpret_cast<__m128i*>(lane.state->data());
  const __m128i feba = _mm_shuffle_epi32(r.abef, 0x1B);
  const __m128i dchg = _mm_shuffle_epi32(r.cdgh, 0xB1);
  _mm_storeu_si128(state, _mm_blend_epi16(feba, dchg, 0xF0));
  _mm_storeu_si128(state + 1, _mm_alignr_epi8(dchg, feba, 8));
  lane.data = r.block;
}

DSV3_SHA_INLINE void BeginBlock(Registers& r) {
  r.abef_before = r.abef;
  r.cdgh_before = r.cdgh;
}

DSV3_SHA_INLINE void EndBlock(Registers& r) {
  r.abef = _mm_add_epi32(r.abef, r.abef_before);
  r.cdgh = _mm_add_epi32(r.cdgh, r.cdgh_before);
  r.block += 64;
}

// Rounds 4 * kGroup .. 4 * kGroup + 3 of one stream.
template <std::size_t kGroup>
DSV3_SHA_INLINE void FourRounds(Registers& r, __m128i constants) {
  __m128i& words = r.words[kGroup % 4];
  const __m128i& words_1 = r.words[(kGroup + 1) % 4];
  const __m128i& words_2 = r.words[(kGroup + 2) % 4];
  const __m128i& words_3 = r.words[(kGroup + 3) % 4];
  if constexpr (kGroup < 4) {
    const __m128i swap = _mm_set_epi64x(0x0C0D0E0F08090A0B, 0x0405060700010203);
    const auto* block = reinterpret_cast<const __m128i*>(r.block);
    words = _mm_shuffle_epi8(_mm_loadu_si128(block + kGroup), swap);
  } else {
    const __m128i seven_back = _mm_alignr_epi8(words_3, words_2, 4);
    words = _mm_add_epi32(_mm_sha256msg1_epu32(words, words_1), seven_back);
    words = _mm_sha256msg2_epu32(words, words_3);
  }
  const __m128i sum = _mm_add_epi32(words, constants);
  // Two rounds turn (ABEF, CDGH) into (new ABEF, ABEF): the halves only change their roles.
  r.cdgh = _mm_sha256rnds2_epu32(r.cdgh, r.abef, sum);
  r.abef = _mm_sha256rnds2_epu32(r.abef, r.cdgh, _mm_shuffle_epi32(sum, 0x0E));
}

template <std::size_t kGroup, typename... Streams>
DSV3_SHA_INLINE void FourRoundsOfAll(Streams&... streams) {
  const __m128i constants =
      _mm_load_si128(reinterpret_cast<const __m128i*>(&kRoundConstants[4 * kGroup]));
  (FourRounds<kGroup>(streams, constants), ...);
}

// The streams are a parameter pack, not an array, so that every compiler keeps them in registers.
template <typename... Streams>
DSV3_SHA_INLINE void CompressBlocks(std::size_t blocks, Streams&... streams) {
  for (; blocks > 0; --blocks) {
    (BeginBlock(streams), ...);
    FourRoundsOfAll<0>(streams...);
    FourRoundsOfAll<1>(streams...);
    FourRoundsOfAll<2>(streams...);
    FourRoundsOfAll<3>(streams...);
    FourRoundsOfAll<4>(streams...);
    FourRoundsOfAll<5>(streams...);
    FourRoundsOfAll<6>(streams...);
    FourRoundsOfAll<7>(streams...);
    FourRoundsOfAll<8>(streams...);
    FourRoundsOfAll<9>(streams...);
    FourRoundsOfAll<10>(streams...);
    FourRoundsOfAll<11>(streams...);
    FourRoundsOfAll<12>(streams...);
    FourRoundsOfAll<13>(streams...);
    FourRoundsOfAll<14>(streams...);
    FourRoundsOfAll<15>(streams...);
    (EndBlock(streams), ...);
  }
}

DSV3_SHA void Compress1(std::span<Lane> lanes, std::size_t blocks) {
  Registers a;
  Load(a, lanes[0]);
  CompressBlocks(blocks, a);
  Store(a, lanes[0]);
}

DSV3_SHA void Compress2(std::span<Lane> lanes, std::size_t blocks) {
  Registers a, b;
  Load(a, lanes[0]);
  Load(b, lanes[1]);
  CompressBlocks(blocks, a, b);
  Store(a, lanes[0]);
  Store(b, lanes[1]);
}

DSV3_SHA void Compress3(std::span<Lane> lanes, std::size_t blocks) {
  Registers a, b, c;
  Load(a, lanes[0]);
  Load(b, lanes[1]);
  Load(c, lanes[2]);
  CompressBlocks(blocks, a, b, c);
  Store(a, lanes[0]);
  Store(b, lanes[1]);
  Store(c, lanes[2]);
}

DSV3_SHA void Compress4(std::span<Lane> lanes, std::size_t blocks) {
  Registers a, b, c, d;
  Load(a, lanes[0]);
  Load(b, lanes[1]);
  Load(c, lanes[2]);
  Load(d, lanes[3]);
  CompressBlocks(blocks, a, b, c, d);
  Store(a, lanes[0]);
  Store(b, lanes[1]);
  Store(c, lanes[2]);
  Store(d, lanes[3]);
}

bool Detect() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  // Only SSE registers are used, which every x86-64 operating system saves: nothing to ask of it.
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kSsse3 = 1u << 9;
  constexpr unsigned kSse41 = 1u << 19;
  if ((ecx & kSsse3) == 0 || (ecx & kSse41) == 0) return false;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kSha = 1u << 29;
  return (ebx & kSha) != 0;
}

}  // namespace

bool IsSupported() {
  static const bool supported = Detect();
  return supported;
}

void Compress(std::span<Lane> lanes, std::size_t blocks) {
  switch (lanes.size()) {
    case 1:
      return Compress1(lanes, blocks);
    case 2:
      return Compress2(lanes, blocks);
    case 3:
      return Compress3(lanes, blocks);
    case 4:
      return Compress4(lanes, blocks);
  }
}

}  // namespace dsv3::formats::sha256_ni

#else

namespace dsv3::formats::sha256_ni {

bool IsSupported() { return false; }

void Compress(std::span<Lane>, std::size_t) {}

}  // namespace dsv3::formats::sha256_ni

#endif
