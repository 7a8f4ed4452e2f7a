#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/dtype.h"
#include "formats/shape.h"
#include "quant/dequantize.h"

// How sample checkpoints store their tensors, and the codes of the forms that are not FP8. Internal
// to the sample.
namespace dsv3::convert {

inline constexpr quant::BlockShape kSampleBlock = {128, 128};
inline constexpr std::uint64_t kSampleAwqGroup = 64;

enum class SampleForm {
  kPlain,
  kFp8,       // F32 scales, X_scale_inv
  kFp8Ue8m0,  // the same; the scales are powers of two
  kFp8E8M0,   // F8_E8M0 scales, as DeepSeek-V4 names them
  kInt4,      // Kimi's: pack-quantized, groups of 32, I32 shapes
  kAwq,       // gemm: asymmetric INT4 by columns, groups of 64
  kNvFp4,     // ModelOpt's, with an input_scale
  kMxFp4,     // DeepSeek-V4's: I8 bytes with F8_E8M0 scales for 32 columns
};

bool IsFp8Form(SampleForm form);

struct StoredPart {
  std::string name;
  formats::Dtype dtype = formats::Dtype::kBF16;
  formats::Shape shape;
};

// The tensors that hold the values of one: the codes, or the values as `plain`, first. Quantised
// forms take matrices whose columns are whole groups.
std::vector<StoredPart> StoredPartsOf(SampleForm form, const std::string& name,
                                      const formats::Shape& shape, formats::Dtype plain);

// The bytes of StoredPartsOf for a matrix of BF16 values, of the forms that are neither plain nor
// FP8. `absmax` is the largest absolute value of the matrix and of those that share its second
// scale. All arithmetic is that of IEEE floats, so bytes are equal on every machine.
std::vector<std::vector<std::byte>> EncodeSample(SampleForm form,
                                                 std::span<const std::uint16_t> bf16,
                                                 std::uint64_t rows, std::uint64_t cols,
                                                 float absmax);

// The largest absolute value.
float AbsmaxOf(std::span<const std::uint16_t> bf16);

}  // namespace dsv3::convert
