#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <unordered_map>
#include <vector>

// Weights like those of trained models, made from a seed, and what coding them must cost at least.
// For tests and benchmarks of packed sizes.
namespace dsv3::testing {

// Normal, with a spread of its own for each row and column.
inline std::vector<float> NormalWeights(std::size_t rows, std::size_t cols, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> of_row(rows);
  std::vector<float> of_col(cols);
  for (float& spread : of_row) spread = std::exp(0.3F * normal(random));
  for (float& spread : of_col) spread = std::exp(0.3F * normal(random));
  std::vector<float> weights(rows * cols);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = 0.02F * normal(random) * of_row[i / cols] * of_col[i % cols];
  }
  return weights;
}

inline std::uint16_t ToBF16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

inline float FromBF16(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

inline std::vector<std::uint16_t> BF16Of(const std::vector<float>& values) {
  std::vector<std::uint16_t> out(values.size());
  std::transform(values.begin(), values.end(), out.begin(), ToBF16);
  return out;
}

// E4M3 with a scale for each block of 128 by 128, as checkpoints have it. `cols` and the number of
// rows are multiples of 128.
inline std::vector<std::uint8_t> E4M3Of(const std::vector<float>& weights, std::size_t cols) {
  std::vector<float> magnitudes;  // of codes 0 to 126
  for (int code = 0; code < 127; ++code) {
    const auto ulps = static_cast<float>(code & 7);
    magnitudes.push_back(code < 8 ? std::ldexp(ulps, -9) : std::ldexp(8 + ulps, (code >> 3) - 10));
  }
  std::vector<std::uint8_t> codes(weights.size());
  constexpr std::size_t kBlock = 128;
  for (std::size_t block = 0; block < weights.size() / kBlock / kBlock; ++block) {
    const std::size_t first =
        block / (cols / kBlock) * kBlock * cols + block % (cols / kBlock) * kBlock;
    const auto for_all = [&](const auto& work) {
      for (std::size_t i = 0; i < kBlock * kBlock; ++i)
        work(first + i / kBlock * cols + i % kBlock);
    };
    float largest = 0;
    for_all([&](std::size_t i) { largest = std::max(largest, std::abs(weights[i])); });
    for_all([&](std::size_t i) {
      const float value = std::abs(weights[i]) / largest * 448;
      auto at = std::lower_bound(magnitudes.begin(), magnitudes.end(), value);
      if (at == magnitudes.end() || (at != magnitudes.begin() && value - at[-1] < *at - value))
        --at;
      codes[i] = static_cast<std::uint8_t>((at - magnitudes.begin()) | (weights[i] < 0 ? 0x80 : 0));
    });
  }
  return codes;
}

// A step of reinforcement learning: one per cent of the values moves to a neighbour.
inline std::vector<std::uint16_t> StepOf(std::vector<std::uint16_t> values, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  for (std::uint16_t& value : values) {
    if (random() % 100 == 0)
      value = static_cast<std::uint16_t>(value + (random() % 2 == 0 ? 1 : -1));
  }
  return values;
}

// A fine-tune: every value moves by about a fiftieth of what is usual in its row and column.
inline std::vector<std::uint16_t> TunedOf(const std::vector<std::uint16_t>& values,
                                          const std::vector<float>& moves) {
  std::vector<std::uint16_t> tuned(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    tuned[i] = ToBF16(FromBF16(values[i]) + 0.02F * moves[i]);
  }
  return tuned;
}

// Differences of floats in their order, by docs/packed.md.
template <typename T>
std::vector<T> OrderedDifferences(const std::vector<T>& values, const std::vector<T>& base) {
  constexpr int kSign = 1 << (8 * sizeof(T) - 1);
  const auto order = [](T bits) { return bits >= kSign ? kSign - 1 - bits : int{bits}; };
  std::vector<T> differences(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    differences[i] = static_cast<T>(order(values[i]) - order(base[i]));
  }
  return differences;
}

// Bytes that the values take at least when each is coded by how often it occurs among them.
template <typename T>
double EntropyBytes(const std::vector<T>& values) {
  std::unordered_map<T, double> counts;
  for (const T value : values) ++counts[value];
  double bits = 0;
  for (const auto& [value, count] : counts) {
    bits -= count * std::log2(count / static_cast<double>(values.size()));
  }
  return bits / 8;
}

// The same of BF16 whose exponents, and mantissas with signs, are coded apart, in pieces of
// `elements` values with counts of their own.
inline double PlaneEntropyBytes(const std::vector<std::uint16_t>& values, std::size_t elements) {
  double bytes = 0;
  for (std::size_t begin = 0; begin < values.size(); begin += elements) {
    std::vector<std::uint8_t> exponents;
    std::vector<std::uint8_t> others;
    for (std::size_t i = begin; i < std::min(values.size(), begin + elements); ++i) {
      exponents.push_back(static_cast<std::uint8_t>(values[i] >> 7));
      others.push_back(static_cast<std::uint8_t>(values[i] % 128 * 2 + values[i] / 32768));
    }
    bytes += EntropyBytes(exponents) + EntropyBytes(others);
  }
  return bytes;
}

}  // namespace dsv3::testing
