#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "convert/catalog/catalog.h"
#include "formats/dtype.h"
#include "formats/error.h"
#include "formats/shape.h"
#include "quant/quantize.h"

namespace dsv3::convert {

// A weight that becomes F8_E4M3: `matrices` row-major matrices of `rows` × `cols` (more than one
// for fused experts), each with blocks of its own.
struct QuantizedWeight {
  std::uint32_t weight = 0;  // position in the catalog; BF16, F16 or F32
  std::uint64_t matrices = 1;
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  quant::QuantizeFormat format;
  quant::FloatFormat values = quant::FloatFormat::kBF16;  // the weight's dtype
  // ceil(rows / block.rows) × ceil(cols / block.cols) scales for each matrix, in any shape.
  formats::Shape scale_shape;
  // Set where scales of this format are stored under another dtype (U8 that holds E8M0).
  std::optional<formats::Dtype> scale_dtype;
  quant::Nonfinite nonfinite = quant::Nonfinite::kReport;
  // Codes and scales of the checkpoint that the weight was dequantised from, positions in the
  // catalog: blocks that were not edited take theirs (quant::QuantizeLike). BF16 weights only.
  struct Original {
    std::uint32_t codes = 0;
    std::uint32_t scale = 0;
  };
  std::optional<Original> original;

  std::uint64_t PanelRows() const;  // of the longest panel
  std::uint64_t ScaleRows() const;  // of one matrix
  std::uint64_t ScaleCols() const;
  std::uint64_t ScaleRowBytes() const;  // as they are stored
  quant::ScaleFormat StoredScale() const;
  formats::Dtype StoredScaleDtype() const;
};

// The values' format of a dtype that can be quantised; nothing for any other dtype.
std::optional<quant::FloatFormat> FloatFormatOf(formats::Dtype dtype);
// The dtype in which scales of this format are stored.
formats::Dtype ScaleDtype(quant::ScaleFormat format);

// The longest panel that is quantised in one pass. The rows of a panel share their scales, so the
// panel, and the original's panel where there is one, is held whole while it is quantised. A longer
// panel is quantised in two passes.
inline constexpr std::uint64_t kMaxPanelBytes = std::uint64_t{8} << 20;

bool NeedsTwoPasses(const QuantizedWeight& weight);

// The first of two passes over a weight, which finds the states of its blocks. It must be complete
// before expressions that use it are evaluated: call Add for each part of the weight, then Finish
// once.
class FirstPass {
 public:
  FirstPass(const Catalog& catalog, const QuantizedWeight& weight);

  const QuantizedWeight& weight() const { return weight_; }

  // Takes the weight's elements from `first` on; parts come in any order, from several threads.
  // With an original, `codes` are those of the same elements and `scales` all bytes of the scale.
  void Add(std::uint64_t first, std::span<const std::byte> values,
           std::span<const std::byte> codes = {}, std::span<const std::byte> scales = {});
  // Makes the scales. Throws Error (kBadInput) that names tensor, row and column of the first NaN
  // or infinity where such are reported.
  void Finish(std::span<const std::byte> original_scales = {});

  bool finished() const { return finished_; }
  // After Finish:
  std::span<const quant::BlockState> PanelBlocks(std::uint64_t panel) const;
  std::span<const std::byte> scale_bytes() const { return scale_bytes_; }

 private:
  QuantizedWeight weight_;
  ErrorPlace place_;
  std::mutex mutex_;  // guards what follows until Finish
  std::vector<quant::BlockState> blocks_;
  std::optional<std::uint64_t> nonfinite_element_;
  float nonfinite_value_ = 0;
  std::vector<std::byte> scale_bytes_;
  bool finished_ = false;
};

// Throws the Error (kBadInput) for a NaN or infinity: `element` counts in the whole weight, `place`
// is the weight's.
[[noreturn]] void FailNonfinite(const QuantizedWeight& weight, const ErrorPlace& place,
                                std::uint64_t element, float value);

// The file and name of a tensor.
ErrorPlace PlaceOf(const Catalog& catalog, std::uint32_t tensor);

}  // namespace dsv3::convert
