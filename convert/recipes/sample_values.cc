#include "convert/recipes/sample_values.h"

#include "formats/hash/split_mix.h"
#include "quant/codec.h"

namespace dsv3::convert {
namespace {

using formats::kSplitMixStep;
using formats::SplitMix;

// FNV-1a, 64 bits.
constexpr std::uint64_t HashName(std::string_view name) {
  std::uint64_t hash = 0xCBF29CE484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return hash;
}

}  // namespace

SampleValues::SampleValues(std::uint64_t seed, std::string_view name, TensorRole role)
    : key_(SplitMix(SplitMix(seed + kSplitMixStep) ^ HashName(name))) {
  switch (role) {
    case TensorRole::kNorm:
      // Draws stay below 2^18, so these values are 1 ± 0.25 at most.
      unit_ = 0x1p-19F;
      offset_ = 1 << 19;
      break;
    case TensorRole::kRouterBias:
      unit_ = 0x1p-19F;
      offset_ = -(1 << 19);
      break;
    default:
      // 16 to 31 steps of about 4.1e-8; a draw's standard deviation is about 20,600.
      unit_ = 0x1.6p-25F * static_cast<float>(16 + (key_ >> 60));
      break;
  }
}

std::int32_t SampleValues::Draw(std::uint64_t i) const {
  const std::uint64_t bits = SplitMix(key_ + (i + 1) * kSplitMixStep);
  constexpr std::uint64_t kField = 0x7FFF;
  const std::uint64_t sum =
      (bits & kField) + ((bits >> 15) & kField) + ((bits >> 30) & kField) + ((bits >> 45) & kField);
  const std::int32_t centered = static_cast<std::int32_t>(sum) - 2 * 0x7FFF;
  return offset_ + ((bits >> 60) == 0 ? 2 * centered : centered);
}

void SampleValues::DrawBF16(std::uint64_t first, std::span<std::uint16_t> out) const {
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = quant::EncodeBF16(static_cast<float>(Draw(first + i)) * unit_);
  }
}

void SampleValues::DrawF32(std::uint64_t first, std::span<float> out) const {
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(Draw(first + i)) * unit_;
  }
}

void SampleValues::DrawExperts(std::uint64_t first, std::uint64_t per_row, std::uint64_t experts,
                               std::span<std::int64_t> out) const {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t row = (first + i) / per_row;
    const std::uint64_t expert = SplitMix(key_ + (row + 1) * kSplitMixStep) + (first + i) % per_row;
    out[i] = static_cast<std::int64_t>(expert % experts);
  }
}

}  // namespace dsv3::convert
