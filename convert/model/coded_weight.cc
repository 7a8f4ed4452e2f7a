#include "convert/model/coded_weight.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/model/companions.h"
#include "convert/model/form_rules.h"
#include "convert/model/form_table.h"
#include "convert/model/scale_names.h"
#include "convert/model/scale_rules.h"
#include "convert/model/stored_instead.h"
#include "convert/model/unknown_quantization.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;

constexpr std::uint64_t kCodesOfWord = 8;  // INT4 in 32 bits

std::optional<quant::ScaleFormat> FormatOf(ScaleKind kind, Dtype dtype) {
  switch (kind) {
    case ScaleKind::kFloat:
      if (dtype == Dtype::kF8E8M0) return std::nullopt;
      return ScaleFormatOf(dtype);
    case ScaleKind::kE8M0:
      if (dtype == Dtype::kU8 || dtype == Dtype::kF8E8M0) return quant::ScaleFormat::kE8M0;
      return std::nullopt;
    case ScaleKind::kE4M3:
      if (dtype == Dtype::kF8E4M3) return quant::ScaleFormat::kE4M3;
      return std::nullopt;
  }
  return std::nullopt;
}

std::string_view ExpectedDtypes(ScaleKind kind) {
  switch (kind) {
    case ScaleKind::kFloat:
      return "F32, BF16 or F16";
    case ScaleKind::kE8M0:
      return "U8 or F8_E8M0";
    case ScaleKind::kE4M3:
      break;
  }
  return "F8_E4M3";
}

class Reader {
 public:
  Reader(const Catalog& catalog, const ModelConfig& config, std::uint32_t position)
      : position_(position),
        codes_(catalog.tensors()[position]),
        dot_(codes_.name.rfind('.')),
        evidence_(catalog, config, codes_, std::string_view(codes_.name).substr(0, dot_)),
        row_(*FindFormRow(evidence_, std::string_view(codes_.name).substr(dot_ + 1))) {}

  CodedWeight Read() {
    FindForeignParts();
    if (!result_.faults.empty()) return std::move(result_);
    if (!row_.decoding) {
      result_.unread = "this form is not read";
      return std::move(result_);
    }
    ReadTensors(*row_.decoding);
    return std::move(result_);
  }

 private:
  void Fail(std::uint32_t tensor, const char* kind, std::string message) {
    result_.faults.push_back({tensor, kind, std::move(message)});
  }

  std::string Quoted(std::string_view part) const { return QuoteForMessage(evidence_.Name(part)); }

  // Tensors beside the codes that other forms keep there: two forms claim one weight.
  void FindForeignParts() {
    std::vector<std::string_view> own(row_.parts.begin(), row_.parts.end());
    own.push_back(row_.scale(evidence_));
    const std::string_view foreign = FindForeignPart(evidence_, own);
    if (!foreign.empty()) {
      Fail(position_, "several-forms",
           fmt::format("tensor {} holds {} weights by what is beside it, but {} belongs to another "
                       "form; it is not clear which of the two the codes are: take all tensors of "
                       "the weight from one checkpoint",
                       QuoteForMessage(codes_.name), row_.name(evidence_), Quoted(foreign)));
      return;
    }
    if (row_.codes != "weight") {
      const CatalogTensor* const plain = evidence_.Find("weight");
      if (plain == nullptr) return;
      Fail(position_, "several-forms",
           fmt::format("tensor {} holds {} weights, but there is {}, too; expected one of the two: "
                       "take all tensors of the weight from one checkpoint",
                       QuoteForMessage(codes_.name), row_.name(evidence_),
                       QuoteForMessage(plain->name)));
    }
  }

  void ReadTensors(const FormDecoding& decoding) {
    const auto matrix = MatrixOf(row_.layout, codes_.shape);
    if (!matrix) {
      result_.unread =
          fmt::format("its shape {} is not that of a matrix", formats::ShapeToString(codes_.shape));
      return;
    }
    if (std::string unknown = DescribeUnknownQuantization(evidence_); !unknown.empty()) {
      result_.unread = std::move(unknown);
      return;
    }
    if (row_.bits != nullptr && row_.bits(evidence_) != 4) {
      result_.unread = "only words of eight INT4 values are read";
      return;
    }
    if (ByColumns() && (*matrix)[1] % kCodesOfWord != 0) {
      result_.unread =
          fmt::format("its {} columns are not a multiple of {}", (*matrix)[1], kCodesOfWord);
      return;
    }
    if (evidence_.Has("weight_g_idx")) {
      result_.unread = fmt::format("{} gives the columns another order", Quoted("weight_g_idx"));
      return;
    }
    // ModelOpt's AWQ: what the codes mean is to be multiplied with it column by column.
    if (evidence_.Has("pre_quant_scale")) {
      result_.unread =
          fmt::format("{} scales the columns of its activations", Quoted("pre_quant_scale"));
      return;
    }
    ScaledWeight weight;
    weight.weight = position_;
    weight.rows = (*matrix)[0];
    weight.cols = (*matrix)[1];
    weight.format = decoding.codes;
    if (!ReadScale(decoding, *matrix, weight) || !ReadTensorScale(decoding, weight) ||
        !ReadZeros(decoding, weight) || !ReadShape() || !HasNeeded(decoding)) {
      return;
    }
    // Zero points move the range.
    if (decoding.range != nullptr && weight.zeros == Catalog::kNone) {
      weight.range = decoding.range(evidence_);
    }
    result_.weight = weight;
  }

  bool ByColumns() const { return row_.layout == CodeLayout::kAwq; }

  bool ReadScale(const FormDecoding& decoding, const Shape& matrix, ScaledWeight& weight) {
    const std::string_view part = row_.scale(evidence_);
    const CatalogTensor* const scale = evidence_.Find(part);
    if (scale == nullptr) return false;  // the caller reports that
    weight.scale = evidence_.Position(part);
    const auto format = FormatOf(decoding.scales, scale->dtype);
    if (!format) {
      Fail(weight.scale, "wrong-scale-dtype",
           fmt::format("scale {} is {}, expected {} beside {} weights",
                       QuoteForMessage(scale->name), formats::DtypeName(scale->dtype),
                       ExpectedDtypes(decoding.scales), row_.name(evidence_)));
      return false;
    }
    weight.scale_format = *format;
    const ScaleRules rules = decoding.rules(evidence_);
    if (rules.rules.empty()) {
      result_.unread = rules.problem;
      return false;
    }
    CatalogTensor matrix_of_weight = codes_;
    matrix_of_weight.shape = matrix;
    CatalogTensor grid = *scale;
    // ModelOpt keeps the blocks of a matrix in four dimensions.
    if (grid.shape.size() == 4 && grid.shape[1] == 1 && grid.shape[3] == 1) {
      grid.shape = {grid.shape[0], grid.shape[2]};
    }
    if (ByColumns() && grid.shape.size() == 2) std::swap(grid.shape[0], grid.shape[1]);
    std::string problem = ApplyScaleRules(rules, matrix_of_weight, grid, weight);
    if (!problem.empty() && ByColumns()) {
      problem = fmt::format(
          "scale {} has shape {}, which is not that of the scales of {} of shape {} by the {}; "
          "either the config or the scale belongs to another checkpoint",
          QuoteForMessage(scale->name), formats::ShapeToString(scale->shape),
          QuoteForMessage(codes_.name), formats::ShapeToString(codes_.shape),
          rules.rules.front().source);
    }
    if (!problem.empty()) {
      Fail(weight.scale, "wrong-scale-shape", std::move(problem));
      return false;
    }
    return FitsGroups(weight);
  }

  bool FitsGroups(const ScaledWeight& weight) {
    if (weight.rows == 0 || weight.cols == 0) {
      result_.unread = "it is empty";
      return false;
    }
    if (weight.ScaleCols() > kMaxScaleColumns) {
      result_.unread = fmt::format("its scales have {} columns, expected at most {}",
                                   weight.ScaleCols(), kMaxScaleColumns);
      return false;
    }
    // FP8 may end in a part of a group, as it may in a part of a block.
    const bool whole = weight.block.rows != 1 || weight.format == quant::CodeFormat::kE4M3;
    if (!whole && weight.cols % weight.block.cols != 0) {
      result_.unread = fmt::format("groups of {} columns do not divide its {} columns",
                                   weight.block.cols, weight.cols);
      return false;
    }
    return true;
  }

  bool ReadTensorScale(const FormDecoding& decoding, ScaledWeight& weight) {
    if (decoding.tensor_scale.empty()) return true;
    const CatalogTensor* const scale = evidence_.Find(decoding.tensor_scale);
    if (scale == nullptr) {
      Fail(position_, "missing-scale",
           fmt::format(
               "tensor {} holds {} weights, but its second scale {} is in no shard; without "
               "it the weight means nothing. The checkpoint is incomplete, download it "
               "again",
               QuoteForMessage(codes_.name), row_.name(evidence_), Quoted(decoding.tensor_scale)));
      return false;
    }
    const std::uint32_t position = evidence_.Position(decoding.tensor_scale);
    // NVFP4's is F32 in all tools.
    const std::optional<quant::ScaleFormat> format =
        decoding.scales == ScaleKind::kFloat ? FormatOf(ScaleKind::kFloat, scale->dtype)
        : scale->dtype == Dtype::kF32        ? std::optional(quant::ScaleFormat::kF32)
                                             : std::nullopt;
    if (!format) {
      Fail(position, "wrong-scale-dtype",
           fmt::format(
               "scale {} is {}, expected {}", QuoteForMessage(scale->name),
               formats::DtypeName(scale->dtype),
               decoding.scales == ScaleKind::kFloat ? ExpectedDtypes(ScaleKind::kFloat) : "F32"));
      return false;
    }
    if (formats::NumElements(scale->shape) != 1) {
      Fail(position, "wrong-scale-shape",
           fmt::format("scale {} has shape {}, expected one value, since it is that of a whole "
                       "tensor",
                       QuoteForMessage(scale->name), formats::ShapeToString(scale->shape)));
      return false;
    }
    weight.tensor_scale = position;
    weight.tensor_scale_format = *format;
    weight.tensor_scale_use = decoding.tensor_scale_use;
    return true;
  }

  bool ReadZeros(const FormDecoding& decoding, ScaledWeight& weight) {
    if (!decoding.packed_zeros.empty()) return ReadPackedZeros(decoding.packed_zeros, weight);
    for (const std::string_view part : decoding.zeros) {
      if (part.empty() || !evidence_.Has(part)) continue;
      const CatalogTensor& zeros = *evidence_.Find(part);
      const auto format = ZeroFormatOf(zeros.dtype);
      const CatalogTensor& scale = evidence_.catalog().tensors()[weight.scale];
      const bool alike = formats::NumElements(zeros.shape) == formats::NumElements(scale.shape);
      if (!format || !alike) {
        Fail(evidence_.Position(part), "wrong-zero-points",
             fmt::format("tensor {} is {} {}, expected one F32, BF16, F16 or I8 value for each of "
                         "the scales {}, {}",
                         QuoteForMessage(zeros.name), formats::DtypeName(zeros.dtype),
                         formats::ShapeToString(zeros.shape), QuoteForMessage(scale.name),
                         formats::ShapeToString(scale.shape)));
        return false;
      }
      weight.zeros = evidence_.Position(part);
      weight.zero_format = *format;
      return true;
    }
    constexpr std::string_view kZeroPoint = "weight_zero_point";
    const auto& parts = decoding.zeros;
    const bool may_have = std::find(parts.begin(), parts.end(), kZeroPoint) != parts.end();
    if (!may_have || !SaysAsymmetric()) return true;
    FailForMissingZeros(kZeroPoint);
    return false;
  }

  void FailForMissingZeros(std::string_view part) {
    Fail(position_, "missing-scale",
         fmt::format("tensor {} holds {} weights, whose codes have zero points{}, but {} is in no "
                     "shard. The checkpoint is incomplete, download it again",
                     QuoteForMessage(codes_.name), row_.name(evidence_),
                     ByColumns() ? "" : " by config.json (symmetric is false)", Quoted(part)));
  }

  static std::optional<ZeroFormat> ZeroFormatOf(Dtype dtype) {
    switch (dtype) {
      case Dtype::kF32:
        return ZeroFormat::kF32;
      case Dtype::kBF16:
        return ZeroFormat::kBF16;
      case Dtype::kF16:
        return ZeroFormat::kF16;
      case Dtype::kI8:
        return ZeroFormat::kI8;
      default:
        return std::nullopt;
    }
  }

  bool ReadPackedZeros(std::string_view part, ScaledWeight& weight) {
    const CatalogTensor* const zeros = evidence_.Find(part);
    if (zeros == nullptr) {
      if (!ByColumns() && !SaysAsymmetric()) return true;
      FailForMissingZeros(part);
      return false;
    }
    // compressed-tensors takes the words for values there, and engines pass over them.
    if (!ByColumns() && SaysSymmetric()) {
      Fail(
          evidence_.Position(part), "wrong-zero-points",
          fmt::format("tensor {} holds zero points, but by config.json (symmetric) the codes of {} "
                      "have none, so it is not clear what they mean; take the config.json that "
                      "belongs to the weights, or leave the tensor out",
                      QuoteForMessage(zeros->name), QuoteForMessage(codes_.name)));
      return false;
    }
    Shape expected = {CeilDiv(weight.ScaleRows(), kCodesOfWord), weight.ScaleCols()};
    if (ByColumns()) std::swap(expected[0], expected[1]);
    if (zeros->dtype != Dtype::kI32 || zeros->shape != expected || weight.block.rows != 1) {
      Fail(evidence_.Position(part), "wrong-zero-points",
           fmt::format("tensor {} is {} {}, expected I32 {}: eight zero points of INT4 in a word, "
                       "one for each scale",
                       QuoteForMessage(zeros->name), formats::DtypeName(zeros->dtype),
                       formats::ShapeToString(zeros->shape), formats::ShapeToString(expected)));
      return false;
    }
    weight.zeros = evidence_.Position(part);
    weight.zero_format = ZeroFormat::kPackedRows;
    return true;
  }

  // Whether no group of the config has zero points.
  bool SaysSymmetric() const {
    const auto& quantization = evidence_.config().quantization;
    return quantization && !quantization->groups.empty() &&
           std::all_of(quantization->groups.begin(), quantization->groups.end(),
                       [](const QuantizationGroup& group) { return group.symmetric; });
  }

  // Whether every group of the config has zero points.
  bool SaysAsymmetric() const {
    const auto& quantization = evidence_.config().quantization;
    return quantization && !quantization->groups.empty() &&
           std::none_of(quantization->groups.begin(), quantization->groups.end(),
                        [](const QuantizationGroup& group) { return group.symmetric; });
  }

  // Its values are read before a conversion.
  bool ReadShape() {
    const CatalogTensor* const shape = evidence_.Find("weight_shape");
    if (shape == nullptr || row_.layout != CodeLayout::kWordsOfRow) return true;
    const bool right =
        (shape->dtype == Dtype::kI32 || shape->dtype == Dtype::kI64) && shape->shape == Shape{2};
    if (!right) {
      Fail(
          evidence_.Position("weight_shape"), "wrong-weight-shape",
          fmt::format("tensor {} is {} {}, expected two I64 or I32 values, the rows and columns of "
                      "the weight",
                      QuoteForMessage(shape->name), formats::DtypeName(shape->dtype),
                      formats::ShapeToString(shape->shape)));
    }
    return right;
  }

  bool HasNeeded(const FormDecoding& decoding) {
    const std::string_view missing = FindMissingPart(evidence_, decoding.needed);
    if (missing.empty()) return true;
    Fail(position_, "missing-companion",
         fmt::format("tensor {} holds {} weights, but {}, which belongs beside them, is in no "
                     "shard. The checkpoint is incomplete, download it again",
                     QuoteForMessage(codes_.name), row_.name(evidence_), Quoted(missing)));
    return false;
  }

  const std::uint32_t position_;
  const CatalogTensor& codes_;
  const std::size_t dot_;
  const FormEvidence evidence_;
  const FormRow& row_;
  CodedWeight result_;
};

}  // namespace

CodedWeight ReadCodedWeight(const Catalog& catalog, const ModelConfig& config,
                            std::uint32_t position) {
  return Reader(catalog, config, position).Read();
}

}  // namespace dsv3::convert
