#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "convert/forward/read_ahead.h"
#include "convert/model/scaled_weights.h"
#include "convert/stream/value_reader.h"
#include "quant/codec.h"

// Values of rows of a weight. An internal part of forward.h.
namespace dsv3::convert {

// What an FP8 weight with a scale is.
enum class WeightValues {
  kBF16,   // code × scale rounded to BF16, as programs that load BF16 weights hold it
  kExact,  // code × scale as a float
};

// Values of rows, one behind the other: BF16 numbers or floats, the other is nullptr.
struct WeightPanel {
  const std::uint16_t* bf16 = nullptr;
  const float* floats = nullptr;

  WeightPanel From(std::size_t element) const {
    return {bf16 == nullptr ? nullptr : bf16 + element,
            floats == nullptr ? nullptr : floats + element};
  }
  float At(std::size_t element) const {
    return floats != nullptr ? floats[element] : quant::DecodeBF16(bf16[element]);
  }
  // The first `count` of them.
  void CopyTo(float* out, std::size_t count) const;
};

// Makes values of the bytes of rows, and keeps the memory for the next ones. Used by one thread.
class RowValues {
 public:
  // `inputs`: the bytes of the rows, which BF16 values stay in, and those of their scales.
  void Make(const Catalog& catalog, const ScaleMap& scales, const TensorRows& rows,
            std::span<const std::span<const std::byte>> inputs, WeightValues values);
  // Leaves columns [first, end) of the `all` that each of the rows has.
  void KeepColumns(std::size_t rows, std::size_t all, std::size_t first, std::size_t end);
  // Makes floats of the values, of which there are `count`.
  void MakeFloats(std::size_t count);

  // Holds until the next call.
  const WeightPanel& panel() const { return panel_; }

 private:
  WeightPanel panel_;
  ValueReader::Scales scales_;
  std::vector<std::uint16_t> bf16_;
  std::vector<float> floats_;
  // Of some columns.
  std::vector<std::uint16_t> bf16_columns_;
  std::vector<float> float_columns_;
};

}  // namespace dsv3::convert
