#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "convert/model/form_evidence.h"
#include "convert/model/quantized_form.h"
#include "convert/model/scale_rules.h"
#include "convert/model/scaled_weights.h"
#include "formats/dtype.h"
#include "quant/codes.h"

// The table of forms: one row each. Internal to convert/model.
namespace dsv3::convert {

// Which dtypes the scales of a form may have.
enum class ScaleKind {
  kFloat,  // F32, BF16, F16
  kE8M0,   // F8_E8M0, or U8 that holds it
  kE4M3,   // F8_E4M3
};

// How the values of a form are made of its tensors: (code − zero) × scale.
struct FormDecoding {
  quant::CodeFormat codes = quant::CodeFormat::kI8;
  // Where the scales may lie. Groups of columns must divide the columns, but for FP8.
  ScaleRules (*rules)(const FormEvidence& evidence) = nullptr;
  ScaleKind scales = ScaleKind::kFloat;
  // The part that is a scale of the scales, and how it applies; empty: none.
  std::string_view tensor_scale = {};
  quant::TensorScaleUse tensor_scale_use = quant::TensorScaleUse::kMultiply;
  // Parts that may hold what the codes mean 0 with: one for each scale, in their layout, or as INT4
  // in words along the rows.
  std::array<std::string_view, 2> zeros = {};
  std::string_view packed_zeros = {};
  // Which of the codes may be there; nullptr: all of them.
  std::optional<CodeRange> (*range)(const FormEvidence& evidence) = nullptr;
  // Parts that the values do not need, but that every tool writes and readers ask for.
  std::span<const std::string_view> needed = {};
};

// A form. The first row whose `is` holds is the form of a tensor. The members are in the order in
// which a row is read.
struct FormRow {           // NOLINT(clang-analyzer-optin.performance.Padding)
  std::string_view codes;  // last component of the codes' name
  formats::Dtype dtype;    // of the codes
  bool (*is)(const FormEvidence& evidence);
  std::string (*name)(const FormEvidence& evidence);  // for people, without "weights"
  CodeLayout layout;
  std::uint64_t (*bits)(const FormEvidence& evidence);      // of a code in a word; nullptr: 0
  std::string_view (*scale)(const FormEvidence& evidence);  // the part without which there is none
  // Parts that the form keeps beside the codes, beyond those that every form may have.
  std::span<const std::string_view> parts;
  std::optional<FormDecoding> decoding;  // nothing: its values are not decoded
};

std::span<const FormRow> FormTable();

// The row of a tensor of codes; nullptr when no form has such a tensor.
const FormRow* FindFormRow(const FormEvidence& evidence, std::string_view part);

// Parts that belong to some forms: beside codes of another form they are out of place.
std::span<const std::string_view> TellingParts();

}  // namespace dsv3::convert
