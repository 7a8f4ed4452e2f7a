#pragma once

#include <cstdint>

#include <fmt/format.h>

#include "convert/model/form_evidence.h"
#include "convert/model/scale_rules.h"

// Where the scales of each form may lie; what the table of forms refers to. Internal to
// convert/model.
namespace dsv3::convert {

// Groups of so many columns, whatever the config says: the form has no others.
template <std::uint64_t kColumns>
ScaleRules GroupsOf(const FormEvidence& /*evidence*/) {
  ScaleRules rules;
  rules.rules.push_back({ScaleRule::Kind::kBlock,
                         {1, kColumns},
                         fmt::format("form, whose scales are for {} columns,", kColumns)});
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
// One scale for a tensor, a row, or 128 × 128.
ScaleRules ModelOptFp8Scales(const FormEvidence& evidence);

}  // namespace dsv3::convert
