#pragma once

#include <cstdint>
#include <optional>

#include <fmt/format.h>

#include "convert/model/form_evidence.h"
#include "convert/model/scale_rules.h"
#include "convert/model/scaled_weights.h"

// Where the scales of each form may lie; what the table of forms refers to. Internal to
// convert/model.
namespace dsv3::convert {

// Groups of so many columns, whatever the config says: the form has no others.
template <std::uint64_t kColumns>
ScaleRules GroupsOf(const FormEvidence& /*evidence*/) {
  ScaleRules rules;
  rules.rules.push_back({ScaleRule::Kind::kBlock,
                         {1, kColumns},
                         fmt::format("form (a scale for {} columns)", kColumns)});
  return rules;
}

// TensorRT-LLM's blocks of FP8, which no config names.
ScaleRules BlocksOf128(const FormEvidence& evidence);
// What compressed-tensors' groups of INT4 say.
ScaleRules Int4Groups(const FormEvidence& evidence);
// What its groups of INT8 say; without any, one scale for a row or a tensor.
ScaleRules Int8Scales(const FormEvidence& evidence);
// weight_block_size.
ScaleRules Int8Blocks(const FormEvidence& evidence);
// AWQ's group_size, where its version is known.
ScaleRules AwqGroups(const FormEvidence& evidence);
// One scale for a tensor, a row, or 128 × 128.
ScaleRules ModelOptFp8Scales(const FormEvidence& evidence);

// −7 to 7 in Kimi's symmetric INT4; nothing for others.
std::optional<CodeRange> PackedInt4Range(const FormEvidence& evidence);
// −8 to 7, of codes that have a byte each.
std::optional<CodeRange> Int4Range(const FormEvidence& evidence);

// The matrix that codes of a layout make, INT4 in words; nothing for codes that are no matrix and
// for layouts that are not read.
std::optional<formats::Shape> MatrixOf(CodeLayout layout, const formats::Shape& codes);

}  // namespace dsv3::convert
