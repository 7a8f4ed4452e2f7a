#include "convert/verify/code_range.h"

#include <cstring>

namespace dsv3::convert {
namespace {

// Tools that write −8 do so in about every fourth group.
constexpr std::uint64_t kGroupsOfOneCode = 16;

// Whether any half of the bytes is 0, which is the code −8 in offset binary.
bool AnyZeroHalf(std::uint64_t bytes) {
  constexpr std::uint64_t kOnes = 0x1111111111111111;
  constexpr std::uint64_t kHighs = 0x8888888888888888;
  return ((bytes - kOnes) & ~bytes & kHighs) != 0;
}

}  // namespace

void CodesOutOfRange::Add(quant::CodeFormat format, const CodeRange& range, std::uint64_t element,
                          std::span<const std::byte> codes) {
  const unsigned bits = quant::CodeBits(format);
  const unsigned per_byte = 8 / bits;
  const unsigned mask = (1U << bits) - 1;
  const bool only_zero_half =
      format == quant::CodeFormat::kI4Offset && range.least == -7 && range.greatest == 7;
  const auto look = [&](std::size_t byte) {
    const auto both = std::to_integer<unsigned>(codes[byte]);
    for (unsigned i = 0; i < per_byte; ++i) {
      const auto code = static_cast<std::uint8_t>((both >> (bits * i)) & mask);
      const int value = static_cast<int>(quant::DecodeCode(format, code));
      if (value >= range.least && value <= range.greatest) continue;
      ++count;
      const std::uint64_t at = element + byte * per_byte + i;
      if (at >= first) continue;
      first = at;
      first_value = value;
    }
  };
  for (std::size_t byte = 0; byte < codes.size();) {
    std::uint64_t together = 0;
    if (only_zero_half && codes.size() - byte >= sizeof together) {
      std::memcpy(&together, codes.data() + byte, sizeof together);
      if (!AnyZeroHalf(together)) {
        byte += sizeof together;
        continue;
      }
    }
    look(byte++);
  }
}

void CodesOutOfRange::Add(const CodesOutOfRange& other) {
  count += other.count;
  if (other.first >= first) return;
  first = other.first;
  first_value = other.first_value;
}

bool IsFault(const CodesOutOfRange& codes, const CodeRange& range, std::uint64_t scales) {
  if (codes.count == 0) return false;
  return !range.others_differ || codes.count <= scales / kGroupsOfOneCode;
}

}  // namespace dsv3::convert
