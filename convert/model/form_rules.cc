#include "convert/model/form_rules.h"

#include <string>
#include <string_view>
#include <utility>

namespace dsv3::convert {
namespace {

constexpr quant::BlockShape kBlock128 = {128, 128};

ScaleRules RowsAndTensors(std::string_view form) {
  ScaleRules rules;
  rules.rules.push_back(
      {ScaleRule::Kind::kRow, {}, fmt::format("form {}, which has a scale for a row,", form)});
  rules.rules.push_back({ScaleRule::Kind::kTensor,
                         {},
                         fmt::format("form {}, which has a scale for a tensor,", form)});
  return rules;
}

ScaleRules GroupsOfConfig(const FormEvidence& evidence, std::uint64_t bits) {
  ScaleRules rules;
  if (evidence.config().quantization) {
    AddGroupRules(*evidence.config().quantization, "int", bits, rules);
  }
  return rules;
}

}  // namespace

ScaleRules BlocksOf128(const FormEvidence& /*evidence*/) {
  ScaleRules rules;
  rules.rules.push_back(
      {ScaleRule::Kind::kBlock, kBlock128, "form, whose scales are for blocks of 128 × 128,"});
  return rules;
}

ScaleRules Int4Groups(const FormEvidence& evidence) {
  ScaleRules rules = GroupsOfConfig(evidence, 4);
  if (rules.rules.empty()) {
    rules.problem =
        "config.json has no group of INT4 weights in config_groups, which gives the columns of a "
        "scale";
  }
  return rules;
}

ScaleRules Int8Scales(const FormEvidence& evidence) {
  ScaleRules rules = GroupsOfConfig(evidence, 8);
  return rules.rules.empty() ? RowsAndTensors("INT8") : std::move(rules);
}

ScaleRules Int8Blocks(const FormEvidence& evidence) {
  ScaleRules rules;
  const auto& quantization = evidence.config().quantization;
  if (!quantization || !quantization->weight_block_size) {
    rules.problem = "config.json has no weight_block_size, which gives the block of a scale";
    return rules;
  }
  const quant::BlockShape block = *quantization->weight_block_size;
  rules.rules.push_back(
      {ScaleRule::Kind::kBlock, block,
       fmt::format("weight_block_size [{}, {}] of config.json", block.rows, block.cols)});
  return rules;
}

ScaleRules ModelOptFp8Scales(const FormEvidence& evidence) {
  ScaleRules rules = RowsAndTensors("ModelOpt FP8");
  rules.rules.push_back(BlocksOf128(evidence).rules.front());
  return rules;
}

}  // namespace dsv3::convert
