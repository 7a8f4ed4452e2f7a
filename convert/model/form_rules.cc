#include "convert/model/form_rules.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/error.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kCodesOfWord = 8;  // INT4 in 32 bits

constexpr quant::BlockShape kBlock128 = {128, 128};

ScaleRules RowsAndTensors(std::string_view form) {
  ScaleRules rules;
  rules.rules.push_back(
      {ScaleRule::Kind::kRow, {}, fmt::format("form {} (a scale for a row)", form)});
  rules.rules.push_back(
      {ScaleRule::Kind::kTensor, {}, fmt::format("form {} (a scale for a tensor)", form)});
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
  rules.rules.push_back({ScaleRule::Kind::kBlock, kBlock128, "form (a scale for 128 × 128)"});
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

ScaleRules AwqGroups(const FormEvidence& evidence) {
  ScaleRules rules;
  const auto& quantization = evidence.config().quantization;
  if (!quantization || quantization->quant_method != "awq" || quantization->groups.empty()) {
    rules.problem = "config.json has no group_size of AWQ, which gives the columns of a scale";
    return rules;
  }
  const std::string& version = quantization->groups.front().format;
  if (!version.empty() && version != "gemm") {
    rules.problem =
        fmt::format("config.json says version {}, which lays codes out in another way than gemm",
                    QuoteForMessage(version));
    return rules;
  }
  return GroupsOfConfig(evidence, 4);
}

ScaleRules ModelOptFp8Scales(const FormEvidence& evidence) {
  ScaleRules rules = RowsAndTensors("ModelOpt FP8");
  rules.rules.push_back(BlocksOf128(evidence).rules.front());
  return rules;
}

std::optional<CodeRange> PackedInt4Range(const FormEvidence& evidence) {
  const ModelConfig& config = evidence.config();
  if (config.model_type != "kimi_k2" || !config.quantization) return std::nullopt;
  const std::vector<QuantizationGroup>& groups = config.quantization->groups;
  const bool symmetric = std::all_of(groups.begin(), groups.end(),
                                     [](const QuantizationGroup& g) { return g.symmetric; });
  // llm-compressor divides by 7.5, so that it has −8, too.
  return symmetric ? std::optional(CodeRange{-7, 7, /*others_differ=*/true}) : std::nullopt;
}

std::optional<CodeRange> Int4Range(const FormEvidence& /*evidence*/) {
  return CodeRange{-8, 7, /*others_differ=*/false};
}

std::optional<formats::Shape> MatrixOf(CodeLayout layout, const formats::Shape& codes) {
  if (codes.size() != 2) return std::nullopt;
  switch (layout) {
    case CodeLayout::kPlain:
      return codes;
    case CodeLayout::kTwoInByte:
      if (codes[1] > UINT64_MAX / 2) return std::nullopt;
      return formats::Shape{codes[0], codes[1] * 2};
    case CodeLayout::kWordsOfRow:
      if (codes[1] > UINT64_MAX / kCodesOfWord) return std::nullopt;
      return formats::Shape{codes[0], codes[1] * kCodesOfWord};
    case CodeLayout::kAwq:
      if (codes[1] > UINT64_MAX / kCodesOfWord) return std::nullopt;
      return formats::Shape{codes[1] * kCodesOfWord, codes[0]};
    default:
      return std::nullopt;
  }
}

}  // namespace dsv3::convert
