#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "convert/model/quantized_form.h"
#include "formats/dtype.h"
#include "formats/finding.h"
#include "formats/shape.h"
#include "quant/codes.h"
#include "quant/dequantize.h"

// How quantised weights and scales belong together. No other file knows it; scale_names.h says how
// scales are called.
namespace dsv3::convert {

// A piece of a weight is converted with whole rows of scales, so these must be short. The family's
// longest have 144.
inline constexpr std::uint64_t kMaxScaleColumns = std::uint64_t{1} << 18;

// Whether a dtype is one of the 8-bit floating-point formats of weights, read here or not.
bool IsFp8(formats::Dtype dtype);

// How a tensor holds what codes mean 0 with.
enum class ZeroFormat {
  kF32,
  kBF16,
  kF16,
  kI8,
  // INT4 in offset binary, eight in a 32-bit word: those of eight rows of scales in one column.
  kPackedRows,
};

// The codes that makers of a form write, as values without zero points.
struct CodeRange {
  int least = 0;
  int greatest = 0;
  // Whether other tools write other codes in the same form: then only a few of those are a fault.
  bool others_differ = false;
  friend bool operator==(const CodeRange&, const CodeRange&) = default;
};

// A quantised weight and the tensors that hold its scales; positions in the catalog. The weight is
// `matrices` row-major matrices of `rows` × `cols`, one after the other (1 but for fused experts),
// and so are the scales: each matrix has ceil(rows / block.rows) × ceil(cols / block.cols) of them,
// row-major, without gaps. One scale for a row is the block {1, cols}, one for a matrix
// {rows, cols}. A value is (code − zero) × scale.
struct ScaledWeight {
  std::uint32_t weight = 0;
  std::uint32_t scale = 0;
  std::uint64_t matrices = 1;
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  quant::BlockShape block;
  quant::CodeFormat format = quant::CodeFormat::kE4M3;
  quant::ScaleFormat scale_format = quant::ScaleFormat::kF32;  // of the scale's bytes
  // One value that all scales are multiplied with or divided by (NVFP4, in F32); kNone: none.
  std::uint32_t tensor_scale = Catalog::kNone;
  quant::ScaleFormat tensor_scale_format = quant::ScaleFormat::kF32;
  quant::TensorScaleUse tensor_scale_use = quant::TensorScaleUse::kMultiply;
  // One value for each scale, which is subtracted from the codes; kNone: none.
  std::uint32_t zeros = Catalog::kNone;
  ZeroFormat zero_format = ZeroFormat::kF32;
  std::optional<CodeRange> range = {};  // nothing: any code may be there

  std::uint64_t ScaleRows() const;  // of one matrix
  std::uint64_t ScaleCols() const;
};

// The shape of a tensor's values: that of the weight where the tensor holds the codes of one;
// `pair` may be nullptr.
formats::Shape ShapeOfValues(const CatalogTensor& tensor, const ScaledWeight* pair);

// The pairs by the positions of their tensors in the catalog. Refers to the pairs, which must
// outlive it. Immutable, so threads may share it.
class ScaleMap {
 public:
  ScaleMap() = default;
  // `tensors`: how many the catalog has.
  ScaleMap(std::span<const ScaledWeight> pairs, std::size_t tensors);

  // The pair of a weight, or of a scale (the scale of its scales included); nullptr where the
  // tensor is in no pair as that.
  const ScaledWeight* OfWeight(std::uint32_t tensor) const { return Pair(by_weight_[tensor]); }
  const ScaledWeight* OfScale(std::uint32_t tensor) const { return Pair(by_scale_[tensor]); }

 private:
  static constexpr std::uint32_t kNoPair = UINT32_MAX;

  const ScaledWeight* Pair(std::uint32_t pair) const {
    return pair == kNoPair ? nullptr : &pairs_[pair];
  }

  std::span<const ScaledWeight> pairs_;
  std::vector<std::uint32_t> by_weight_;  // positions in pairs_
  std::vector<std::uint32_t> by_scale_;
};

struct ScaledWeights {
  // Every FP8 weight whose scale can be used, ordered by the weight's position.
  std::vector<ScaledWeight> pairs;
  // All faults of FP8 weights and their scales, each an error, ordered by the tensor's position in
  // the catalog. Kinds:
  //   missing-scale, missing-companion  no shard has a weight's scale, or what its form needs, too
  //   several-scales          it has scales under two names
  //   scale-without-weight    a scale's weight is in no shard
  //   scale-of-unquantized-weight  a scale's weight is BF16, F16, F32 …
  //   wrong-scale-dtype       the scale is not F32, BF16, F16 or F8_E8M0
  //   wrong-scale-shape       the shape contradicts the config's blocks
  //   wrong-zero-points       what the codes mean 0 with contradicts the scales
  //   several-forms           beside the codes are tensors of two forms
  //   companion-without-codes a tensor that belongs beside codes (weight_shape …) has none
  //   too-many-scale-columns  more than 2^18 in a row, which a piece of a weight would need whole
  //   wrong-weight-shape      the FP8 weight is neither a matrix nor 3-D experts
  //   no-quantization-config  the config does not give the blocks of the FP8 weights (one finding)
  formats::Findings findings;
  // Quantised weights in forms that this toolkit does not convert (INT8, INT4, FP4, FNUZ …): each
  // an error of kind "unsupported-weight-format" that names the form, for a conversion, whose own
  // reason ends the message. They are not faults of the checkpoint.
  formats::Findings unsupported;
  std::vector<FormCount> forms;  // the forms of those, in the catalog's order
  // The weight of each finding in `unsupported`, and its form by position in `forms`.
  struct FormedWeight {
    std::uint32_t weight = 0;
    std::uint32_t form = 0;
    std::string unread = {};  // why it is not in `readable`; empty where a finding says that
  };
  std::vector<FormedWeight> formed;
  // Those of them whose values can be made all the same, ordered by the weight's position.
  // `dequantize` takes them, and so does what looks at values.
  std::vector<ScaledWeight> readable;
};

// Pairs every FP8 weight (F8_E4M3, F8_E5M2) with its scales in whichever shard they are, in every
// form that the family uses:
//   names   X with X + "_scale_inv" (DeepSeek; transformers' fused experts, 3-D), X + "_scale"
//           (compressed-tensors), and Y.weight with Y.scale (V4)
//   dtypes  F32, BF16, F16, F8_E8M0; U8 that holds E8M0 where the config says mxfp8-quantized
//   blocks  quantization_config.weight_block_size; one scale for a tensor where quant_method fp8
//           has none; compressed-tensors' strategies block, group, channel and tensor. Where
//           config_groups name several, the shape picks one of those, never anything else.
// Reads headers only. V4's hc_*_scale, activation scales and caches' scales are not scales of
// weights.
ScaledWeights FindScaledWeights(const Catalog& catalog, const ModelConfig& config);

// The scale format of a dtype that may hold block scales; nothing for any other dtype.
std::optional<quant::ScaleFormat> ScaleFormatOf(formats::Dtype dtype);

}  // namespace dsv3::convert
