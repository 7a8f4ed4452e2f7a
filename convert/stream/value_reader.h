#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/expression.h"

// The values of a tensor's elements from its bytes.
namespace dsv3::convert {

// Elements that are decoded at a time, so that they stay in the L1 cache. Sums are formed over
// groups of so many, counted from the tensor's beginning.
inline constexpr std::size_t kValueChunk = 2048;

// In what form a tensor's values are exact, or nearly.
enum class ValueForm {
  kFloat,   // every value is a float
  kDouble,  // F64 and integers; those beyond 2^53 are rounded
  kNone,    // 6-bit types, which are not decoded
};

// What is the same for all elements of a tensor. Immutable, so threads may share it.
class ValueReader {
 public:
  ValueReader() = default;
  // With `pair` the values are those with the scale.
  ValueReader(const Catalog& catalog, std::uint32_t tensor, const ScaledWeight* pair);
  // With the scale of a weight that has one; those of a scale are what a weight is multiplied by.
  ValueReader(const Catalog& catalog, std::uint32_t tensor, const ScaleMap& scales);

  ValueForm form() const { return form_; }
  bool scaled() const { return pair_ != nullptr; }
  std::uint64_t elements() const { return elements_; }
  // Bytes before an element; elements of less than a byte count in pairs. Only where there is a
  // form.
  std::uint64_t BytesTo(std::uint64_t element) const { return element * bits_ / 8; }
  std::uint64_t ElementAt(std::uint64_t byte) const { return byte * 8 / bits_; }

  // Whether codes that are FP8 are scaled.
  bool scaled_fp8() const { return pair_ != nullptr && fp8_.has_value(); }

  // Appends the parts of the tensors with scales that elements [begin, end) need; nothing when not
  // scaled.
  void AppendScaleReads(std::uint64_t begin, std::uint64_t end,
                        std::vector<SourceRange>& reads) const;

  // Scales as floats, with the position of the first in the scale tensor.
  struct Scales {
    std::uint64_t first = 0;
    std::vector<float> values;
    std::vector<float> zeros;  // what the codes mean 0 with; empty, or as many as values
  };
  // Decodes the bytes of those parts. One instance of Scales serves many calls.
  void DecodeScales(std::uint64_t begin, std::uint64_t end,
                    std::span<const std::span<const std::byte>> inputs, Scales& scales) const;

  // The scale of one element. Scaled only.
  float ScaleOf(std::uint64_t element, const Scales& scales) const;

  // Scaled only.
  std::uint64_t num_scales() const { return pair_->matrices * scale_rows_ * scale_cols_; }

  // The values of consecutive elements from `first` on, whose bytes are given; `out` has as many.
  // `scales` belongs to a range that contains them. Form kFloat.
  void Floats(std::uint64_t first, std::span<const std::byte> bytes, const Scales& scales,
              float* out) const;
  // The same without the scale.
  void StoredFloats(std::span<const std::byte> bytes, float* out) const;
  // The same as Floats, rounded to BF16 by the rule of fp8-to-bf16. Scaled only.
  void RoundedToBF16(std::uint64_t first, std::span<const std::byte> bytes, const Scales& scales,
                     std::uint16_t* out) const;
  // The same as floats. Scaled only.
  void FloatsRoundedToBF16(std::uint64_t first, std::span<const std::byte> bytes,
                           const Scales& scales, float* out) const;
  // Form kDouble.
  void Doubles(std::span<const std::byte> bytes, double* out) const;

 private:
  struct ScaleSpan {
    std::uint64_t first = 0;
    std::uint64_t end = 0;
  };
  // The scales that elements [begin, end) need, as positions in the scale tensor.
  ScaleSpan ScalesOf(std::uint64_t begin, std::uint64_t end) const;
  // Of the scale of an element's row and column block 0, and of its own block.
  std::uint64_t ScaleRowStart(std::uint64_t element) const;
  // Calls `work(position, span)` for parts of consecutive elements: whole rows of a matrix of up to
  // `together` elements, and parts of one row, each as a matrix of its own that begins with a
  // block; with 0 never more than one row. `position` counts from the first of the elements.
  template <typename Work>
  void ForEachSpan(std::uint64_t first, std::span<const std::byte> bytes, const Scales& scales,
                   std::uint64_t together, const Work& work) const;

  const ScaledWeight* pair_ = nullptr;
  std::optional<quant::Fp8Format> fp8_;  // of codes that are scaled
  std::uint64_t scale_rows_ = 0;         // of one matrix
  std::uint64_t scale_cols_ = 0;
  formats::Dtype dtype_ = formats::Dtype::kU8;
  ValueForm form_ = ValueForm::kNone;
  std::uint64_t bits_ = 8;
  std::uint64_t elements_ = 0;
};

}  // namespace dsv3::convert
