#include "convert/recipes/sample_codes.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "convert/model/scale_names.h"
#include "formats/error.h"
#include "quant/codec.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t kInt4Group = 32;
constexpr std::uint64_t kNvFp4Group = 16;
constexpr std::uint64_t kMxFp4Group = 32;
constexpr std::uint64_t kCodesOfWord = 8;

std::uint64_t Blocks(std::uint64_t size, std::uint64_t block) { return (size + block - 1) / block; }

std::uint64_t GroupOf(SampleForm form) {
  switch (form) {
    case SampleForm::kInt4:
      return kInt4Group;
    case SampleForm::kAwq:
      return kSampleAwqGroup;
    case SampleForm::kNvFp4:
      return kNvFp4Group;
    default:
      return kMxFp4Group;
  }
}

template <typename T>
void Append(T value, Bytes& out) {
  const std::size_t size = out.size();
  out.resize(size + sizeof value);
  std::memcpy(out.data() + size, &value, sizeof value);
}

// To the nearest of 0, 0.5, 1, 1.5, 2, 3, 4 and 6; of two to the one with the even code.
unsigned EncodeE2M1(float value) {
  const float a = std::abs(value);
  const int code = static_cast<int>(a > 0.25F) + static_cast<int>(a >= 0.75F) +
                   static_cast<int>(a > 1.25F) + static_cast<int>(a >= 1.75F) +
                   static_cast<int>(a > 2.5F) + static_cast<int>(a >= 3.5F) +
                   static_cast<int>(a > 5.0F);
  return static_cast<unsigned>(code) | (std::signbit(value) ? 8U : 0U);
}

// value + 8, of −7 to 7.
unsigned EncodeInt4(float value) {
  return static_cast<unsigned>(std::clamp(std::nearbyint(value), -7.0F, 7.0F) + 8.0F);
}

// The smallest power of two, as E8M0, with which 6 is not below the largest absolute value.
std::uint8_t E8M0For(float absmax) {
  if (absmax == 0) return 0;
  int exponent = std::ilogb(absmax) - 2;
  if (std::ldexp(6.0F, exponent) < absmax) ++exponent;
  return static_cast<std::uint8_t>(exponent + 127);
}

class Encoder {
 public:
  Encoder(SampleForm form, std::span<const std::uint16_t> bf16, std::uint64_t cols, float absmax)
      : form_(form), bf16_(bf16), group_(GroupOf(form)), second_(absmax / 2688.0F) {
    if (group_ == 0 || cols % group_ != 0) {
      throw Error(ErrorCode::kInternal, "the columns of a sample are not whole groups");
    }
  }

  void Run() {
    for (std::size_t first = 0; first < bf16_.size(); first += group_) Group(first);
  }

  Bytes codes, scales;

  float second() const { return second_; }

 private:
  void Group(std::size_t first) {
    const std::span<const std::uint16_t> group = bf16_.subspan(first, group_);
    const float scale = Scale(AbsmaxOf(group));
    for (std::size_t i = 0; i < group.size(); i += 2) {
      const unsigned low = Code(quant::DecodeBF16(group[i]) / scale);
      const unsigned high = Code(quant::DecodeBF16(group[i + 1]) / scale);
      codes.push_back(static_cast<std::byte>(low | (high << 4)));
    }
  }

  unsigned Code(float value) const {
    return form_ == SampleForm::kInt4 ? EncodeInt4(value) : EncodeE2M1(value);
  }

  // Stores the scale of a group, and returns what its values are divided by.
  float Scale(float absmax) {
    switch (form_) {
      case SampleForm::kInt4: {
        const std::uint16_t scale = quant::EncodeBF16(absmax == 0 ? 1.0F : absmax / 7.0F);
        Append(scale, scales);
        return quant::DecodeBF16(scale);
      }
      case SampleForm::kNvFp4: {
        const float wanted = absmax / (6.0F * second_);
        const std::uint8_t scale = quant::EncodeE4M3(std::clamp(wanted, 0x1p-9F, 448.0F));
        Append(scale, scales);
        return quant::DecodeE4M3(scale) * second_;
      }
      default: {
        const std::uint8_t scale = E8M0For(absmax);
        Append(scale, scales);
        return quant::DecodeE8M0(scale);
      }
    }
  }

  SampleForm form_;
  std::span<const std::uint16_t> bf16_;
  std::uint64_t group_;
  float second_;  // of NVFP4
};

// A matrix of words of eight codes each, those of neighbouring rows in one column, in AWQ's order.
class AwqWords {
 public:
  // Of the matrix by columns.
  AwqWords(std::uint64_t rows, std::uint64_t cols)
      : rows_(rows), words_(rows * cols / kCodesOfWord) {}

  void Set(std::uint64_t row, std::uint64_t col, unsigned code) {
    constexpr std::array<unsigned, kCodesOfWord> kPlaces = {0, 4, 1, 5, 2, 6, 3, 7};
    const std::uint64_t element = col * rows_ + row;
    words_[element / kCodesOfWord] |= code << (4 * kPlaces[element % kCodesOfWord]);
  }

  Bytes Take() const {
    Bytes bytes;
    for (const std::uint32_t word : words_) Append(word, bytes);
    return bytes;
  }

 private:
  std::uint64_t rows_;
  std::vector<std::uint32_t> words_;
};

// The sixteen codes of a group reach from its least value to its greatest, and 0 is one of them.
std::vector<Bytes> EncodeAwq(std::span<const std::uint16_t> bf16, std::uint64_t rows,
                             std::uint64_t cols) {
  constexpr float kMost = 15;
  if (rows % kCodesOfWord != 0 || cols % kSampleAwqGroup != 0) {
    throw Error(ErrorCode::kInternal, "the rows or columns of a sample are not whole words");
  }
  AwqWords codes(rows, cols);
  AwqWords zeros(rows, cols / kSampleAwqGroup);
  std::vector<std::uint16_t> scales(rows * cols / kSampleAwqGroup);
  for (std::uint64_t row = 0; row < rows; ++row) {
    for (std::uint64_t col = 0; col < cols; col += kSampleAwqGroup) {
      const auto group = bf16.subspan(row * cols + col, kSampleAwqGroup);
      float least = 0;
      float greatest = 0;
      for (const std::uint16_t bits : group) {
        least = std::min(least, quant::DecodeBF16(bits));
        greatest = std::max(greatest, quant::DecodeBF16(bits));
      }
      const float range = greatest - least;
      std::uint16_t& stored = scales[col / kSampleAwqGroup * rows + row];
      stored = quant::EncodeF16(range == 0 ? 1.0F : range / kMost);
      const float scale = quant::DecodeF16(stored);
      const float zero = std::clamp(std::nearbyint(-least / scale), 0.0F, kMost);
      zeros.Set(row, col / kSampleAwqGroup, static_cast<unsigned>(zero));
      for (std::uint64_t i = 0; i < kSampleAwqGroup; ++i) {
        const float value = std::nearbyint(quant::DecodeBF16(group[i]) / scale) + zero;
        codes.Set(row, col + i, static_cast<unsigned>(std::clamp(value, 0.0F, kMost)));
      }
    }
  }
  Bytes scale_bytes;
  for (const std::uint16_t scale : scales) Append(scale, scale_bytes);
  std::vector<Bytes> parts;
  parts.push_back(codes.Take());
  parts.push_back(zeros.Take());
  parts.push_back(std::move(scale_bytes));
  return parts;
}

}  // namespace

bool IsFp8Form(SampleForm form) {
  return form == SampleForm::kFp8 || form == SampleForm::kFp8Ue8m0 || form == SampleForm::kFp8E8M0;
}

std::vector<StoredPart> StoredPartsOf(SampleForm form, const std::string& name, const Shape& shape,
                                      Dtype plain) {
  const auto grid = [&] {
    return Shape{Blocks(shape[0], kSampleBlock.rows), Blocks(shape[1], kSampleBlock.cols)};
  };
  const auto groups = [&] { return Shape{shape[0], shape[1] / GroupOf(form)}; };
  const auto module = [&] { return name.substr(0, name.rfind('.')); };
  const auto in_bytes = [&] { return Shape{shape[0], shape[1] / 2}; };
  const auto scale_name = [&](ScaleNaming naming) { return ScaleNameOf(name, naming); };
  switch (form) {
    case SampleForm::kPlain:
      break;
    case SampleForm::kFp8:
    case SampleForm::kFp8Ue8m0:
      return {{name, Dtype::kF8E4M3, shape},
              {scale_name(ScaleNaming::kScaleInv), Dtype::kF32, grid()}};
    case SampleForm::kFp8E8M0:
      return {{name, Dtype::kF8E4M3, shape},
              {scale_name(ScaleNaming::kScale), Dtype::kF8E8M0, grid()}};
    case SampleForm::kInt4:
      return {{PackedNameOf(name), Dtype::kI32, {shape[0], shape[1] / kCodesOfWord}},
              {scale_name(ScaleNaming::kWeightScale), Dtype::kBF16, groups()},
              {name + "_shape", Dtype::kI32, {2}}};
    case SampleForm::kAwq: {
      const std::uint64_t groups_of_rows = shape[1] / GroupOf(form);
      const std::uint64_t words = shape[0] / kCodesOfWord;
      return {{module() + ".qweight", Dtype::kI32, {shape[1], words}},
              {module() + ".qzeros", Dtype::kI32, {groups_of_rows, words}},
              {module() + ".scales", Dtype::kF16, {groups_of_rows, shape[0]}}};
    }
    case SampleForm::kNvFp4:
      return {{name, Dtype::kU8, in_bytes()},
              {scale_name(ScaleNaming::kWeightScale), Dtype::kF8E4M3, groups()},
              {name + "_scale_2", Dtype::kF32, {}},
              {module() + ".input_scale", Dtype::kF32, {}}};
    case SampleForm::kMxFp4:
      return {{name, Dtype::kI8, in_bytes()},
              {scale_name(ScaleNaming::kScale), Dtype::kF8E8M0, groups()}};
  }
  return {{name, plain, shape}};
}

std::vector<Bytes> EncodeSample(SampleForm form, std::span<const std::uint16_t> bf16,
                                std::uint64_t rows, std::uint64_t cols, float absmax) {
  if (form == SampleForm::kAwq) return EncodeAwq(bf16, rows, cols);
  Encoder encoder(form, bf16, cols, absmax);
  encoder.Run();
  std::vector<Bytes> parts;
  parts.push_back(std::move(encoder.codes));
  parts.push_back(std::move(encoder.scales));
  if (form == SampleForm::kInt4) {
    Bytes& shape = parts.emplace_back();
    Append(static_cast<std::int32_t>(rows), shape);
    Append(static_cast<std::int32_t>(cols), shape);
  } else if (form == SampleForm::kNvFp4) {
    Append(encoder.second(), parts.emplace_back());
    Append(1.0F, parts.emplace_back());
  }
  return parts;
}

float AbsmaxOf(std::span<const std::uint16_t> bf16) {
  float absmax = 0;
  for (const std::uint16_t bits : bf16) {
    absmax = std::max(absmax, std::abs(quant::DecodeBF16(bits)));
  }
  return absmax;
}

}  // namespace dsv3::convert
