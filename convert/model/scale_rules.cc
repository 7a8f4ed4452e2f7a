#include "convert/model/scale_rules.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

using formats::Shape;

constexpr std::string_view kMxFp8 = "mxfp8-quantized";
constexpr std::string_view kCompressedTensors = "compressed-tensors";

void AddRule(ScaleRules& rules, ScaleRule rule) {
  const auto same = [&](const ScaleRule& other) {
    return other.kind == rule.kind && other.block == rule.block;
  };
  if (std::any_of(rules.rules.begin(), rules.rules.end(), same)) return;
  rules.rules.push_back(std::move(rule));
}

// The name that messages give the config's quantisation.
std::string NameOf(const QuantizationConfig& config) {
  return config.format.empty() ? config.quant_method
                               : fmt::format("{}, format {}", config.quant_method, config.format);
}

void AddGroupRule(const QuantizationGroup& group, ScaleRules& rules) {
  const std::string source =
      fmt::format("strategy \"{}\" of config.json's {}", group.strategy, group.name);
  if (group.format == kMxFp8) rules.u8_is_e8m0 = true;
  if (group.strategy == "tensor") {
    AddRule(rules, {ScaleRule::Kind::kTensor, {}, source});
  } else if (group.strategy == "channel") {
    AddRule(rules, {ScaleRule::Kind::kRow, {}, source});
  } else if (group.strategy == "group" && group.group_size > 0) {
    AddRule(rules,
            {ScaleRule::Kind::kBlock,
             {1, group.group_size},
             fmt::format("group_size {} of config.json's {}", group.group_size, group.name)});
  } else if (group.strategy == "block" && group.block_structure) {
    AddRule(rules,
            {ScaleRule::Kind::kBlock, *group.block_structure,
             fmt::format("block_structure [{}, {}] of config.json's {}",
                         group.block_structure->rows, group.block_structure->cols, group.name)});
  }
}

ScaleRules ReadCompressedTensors(const QuantizationConfig& config) {
  ScaleRules rules;
  if (const std::string_view format = UnknownFormat(config); !format.empty()) {
    rules.problem = fmt::format(
        "config.json: the format {} of quantization_config is not known, so it is not clear what "
        "the FP8 weights mean; restore the config.json that came with these weights",
        QuoteForMessage(format));
    return rules;
  }
  AddGroupRules(config, "float", 8, rules);
  if (rules.rules.empty()) {
    rules.problem = fmt::format(
        "config.json: quantization_config ({}) has no group of 8-bit float weights with strategy "
        "tensor, channel, group or block, but the checkpoint holds FP8 weights, whose scales only "
        "the config explains; restore the config.json that came with these weights",
        NameOf(config));
  }
  return rules;
}

// The shapes that the scales of `pair` may have by the rule; the first is the usual one. Fused
// experts put their number first.
std::vector<Shape> ShapesOf(const ScaleRule& rule, const Shape& weight, const ScaledWeight& pair) {
  const bool fused = weight.size() == 3;
  const std::uint64_t matrices = pair.matrices;
  const auto of_each = [&](Shape shape) {
    if (fused) shape.insert(shape.begin(), matrices);
    return shape;
  };
  switch (rule.kind) {
    case ScaleRule::Kind::kBlock:
      return {of_each({CeilDiv(pair.rows, rule.block.rows), CeilDiv(pair.cols, rule.block.cols)})};
    case ScaleRule::Kind::kRow:
      return {of_each({pair.rows, 1}), of_each({pair.rows})};
    case ScaleRule::Kind::kTensor:
      break;
  }
  if (fused) return {{matrices, 1, 1}, {matrices, 1}, {matrices}, {1}, {}};
  return {{1}, {}, {1, 1}};
}

quant::BlockShape BlockOf(const ScaleRule& rule, const ScaledWeight& pair) {
  quant::BlockShape block = rule.block;
  if (rule.kind == ScaleRule::Kind::kRow) block = {1, pair.cols};
  if (rule.kind == ScaleRule::Kind::kTensor) block = {pair.rows, pair.cols};
  // Of empty weights, too.
  return {std::max<std::uint64_t>(1, block.rows), std::max<std::uint64_t>(1, block.cols)};
}

// The rows and columns of the weight that one scale covers.
std::pair<std::uint64_t, std::uint64_t> Covered(const ScaledWeight& pair) {
  return {std::min(pair.block.rows, pair.rows), std::min(pair.block.cols, pair.cols)};
}

}  // namespace

void AddGroupRules(const QuantizationConfig& config, std::string_view type, std::uint64_t bits,
                   ScaleRules& rules) {
  for (const QuantizationGroup& group : config.groups) {
    if (group.type == type && group.num_bits == bits) AddGroupRule(group, rules);
  }
}

std::string_view UnknownFormat(const QuantizationConfig& config) {
  constexpr std::string_view kFormats[] = {"",
                                           "dense",
                                           "int-quantized",
                                           "float-quantized",
                                           "naive-quantized",
                                           "pack-quantized",
                                           "nvfp4-pack-quantized",
                                           "mxfp4-pack-quantized",
                                           kMxFp8};
  if (config.quant_method != kCompressedTensors) return "";
  for (const QuantizationGroup& group : config.groups) {
    if (group.format == "mixed-precision") continue;  // of the config, not of a group
    if (std::find(std::begin(kFormats), std::end(kFormats), group.format) == std::end(kFormats)) {
      return group.format;
    }
  }
  return "";
}

ScaleRules ReadScaleRules(const ModelConfig& config) {
  ScaleRules rules;
  if (!config.quantization) {
    rules.problem =
        "config.json: there is no quantization_config, but the checkpoint holds FP8 weights, whose "
        "block size only the config gives; restore the config.json that came with these weights";
    return rules;
  }
  const QuantizationConfig& quantization = *config.quantization;
  if (quantization.quant_method == kCompressedTensors) {
    return ReadCompressedTensors(quantization);
  }
  if (quantization.quant_method == "fbgemm_fp8") {
    AddRule(rules, {ScaleRule::Kind::kRow, {}, "quant_method fbgemm_fp8 of config.json"});
    return rules;
  }
  if (quantization.quant_method != "fp8") {
    rules.problem = fmt::format(
        "config.json: quantization_config.quant_method is \"{}\", expected \"fp8\", "
        "\"fbgemm_fp8\" or \"compressed-tensors\", which explain the scales of FP8 weights",
        quantization.quant_method);
    return rules;
  }
  if (!quantization.fmt.empty() && quantization.fmt.find("e4m3") == std::string::npos &&
      quantization.fmt.find("e5m2") == std::string::npos) {
    rules.problem = fmt::format(
        "config.json: quantization_config.fmt is {}, expected \"e4m3\" or \"e5m2\" beside FP8 "
        "weights; restore the config.json that came with these weights",
        QuoteForMessage(quantization.fmt));
    return rules;
  }
  if (quantization.weight_block_size) {
    const quant::BlockShape block = *quantization.weight_block_size;
    AddRule(rules,
            {ScaleRule::Kind::kBlock, block,
             fmt::format("weight_block_size [{}, {}] of config.json", block.rows, block.cols)});
  } else {
    // transformers and vLLM take that for one scale a tensor.
    AddRule(rules, {ScaleRule::Kind::kTensor, {}, "missing weight_block_size of config.json"});
    rules.only_by_absence = true;
  }
  return rules;
}

std::string ApplyScaleRules(const ScaleRules& rules, const CatalogTensor& weight,
                            const CatalogTensor& scale, ScaledWeight& pair) {
  const ScaleRule* found = nullptr;
  ScaledWeight result = pair;
  std::string expected;
  for (const ScaleRule& rule : rules.rules) {
    const std::vector<Shape> shapes = ShapesOf(rule, weight.shape, pair);
    if (std::find(shapes.begin(), shapes.end(), scale.shape) == shapes.end()) {
      if (!expected.empty()) expected += " or ";
      expected += fmt::format("{} for a weight of shape {} and the {}",
                              formats::ShapeToString(shapes.front()),
                              formats::ShapeToString(weight.shape), rule.source);
      continue;
    }
    ScaledWeight candidate = pair;
    const bool one_scale = formats::NumElements(scale.shape) == 1;
    if (rule.kind == ScaleRule::Kind::kTensor && one_scale) {
      // One for all matrices.
      candidate.rows *= candidate.matrices;
      candidate.matrices = 1;
    }
    candidate.block = BlockOf(rule, candidate);
    if (found != nullptr && Covered(candidate) != Covered(result)) {
      return fmt::format(
          "scale {} has shape {}, which both the {} and the {} give for a weight of shape {}; it "
          "is not clear which of the two it follows",
          QuoteForMessage(scale.name), formats::ShapeToString(scale.shape), found->source,
          rule.source, formats::ShapeToString(weight.shape));
    }
    found = &rule;
    result = candidate;
  }
  if (found == nullptr) {
    return fmt::format(
        "scale {} has shape {}, expected {}; either the config or the scale belongs to another "
        "checkpoint",
        QuoteForMessage(scale.name), formats::ShapeToString(scale.shape), expected);
  }
  pair = result;
  return "";
}

std::string DescribeOtherForm(const ModelConfig& config, const CatalogTensor& weight,
                              std::string_view form) {
  const std::string method = config.quantization ? NameOf(*config.quantization) : "";
  return fmt::format("tensor {} of dtype {} holds {} weights{}", QuoteForMessage(weight.name),
                     formats::DtypeName(weight.dtype), form,
                     method.empty() ? "" : fmt::format(" (config.json says {})", method));
}

}  // namespace dsv3::convert
