#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "convert/model/expected_tensors.h"

// The numbers of sample checkpoints.
//
// Element i of a tensor depends on seed, tensor name and i alone, so any part can be drawn by any
// thread. The random bits are the SplitMix64 finaliser of key + (i + 1) · 0x9E3779B97F4A7C15, where
// the key hashes seed and name. Four 15-bit fields are added (nearly normal, σ = 2^15 / √3), and
// one element in 16 is doubled for heavier tails. All of this is integer arithmetic, followed by
// one float multiplication and one rounding to BF16: equal bits on every machine and compiler.
namespace dsv3::convert {

class SampleValues {
 public:
  // `name` selects the stream; tensors that are copies of each other share one name.
  SampleValues(std::uint64_t seed, std::string_view name, TensorRole role);

  // Elements [first, first + out.size()) as BF16. Linear weights and embeddings have mean 0 and a
  // standard deviation of 0.014 to 0.026 that the name picks; norms scatter around 1.
  void DrawBF16(std::uint64_t first, std::span<std::uint16_t> out) const;

  // The same for router biases: floats around −1, all negative.
  void DrawF32(std::uint64_t first, std::span<float> out) const;

  // The same elements of a table with `per_row` different expert numbers, below `experts`, in a
  // row. `first` and the size are whole rows.
  void DrawExperts(std::uint64_t first, std::uint64_t per_row, std::uint64_t experts,
                   std::span<std::int64_t> out) const;

 private:
  std::int32_t Draw(std::uint64_t i) const;

  std::uint64_t key_;
  std::int32_t offset_ = 0;  // added to each draw
  float unit_ = 0;           // value of one step of a draw
};

}  // namespace dsv3::convert
