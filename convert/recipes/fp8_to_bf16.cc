#include "convert/recipes/fp8_to_bf16.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/plan/dequantize_expression.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

constexpr std::string_view kScaleSuffix = "_scale_inv";
// A piece of a weight is converted with whole rows of scales, so these must be short. The family's
// longest have 144.
constexpr std::uint64_t kMaxScaleColumns = std::uint64_t{1} << 18;

bool IsFp8(Dtype dtype) {
  return dtype == Dtype::kF8E4M3 || dtype == Dtype::kF8E5M2 || dtype == Dtype::kF8E4M3Fnuz ||
         dtype == Dtype::kF8E5M2Fnuz;
}

[[noreturn]] void Fail(const Catalog& catalog, const CatalogTensor& tensor, std::string message) {
  const std::string& file = catalog.files()[tensor.extent.file].name;
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", file, message), {file, tensor.name});
}

quant::BlockShape ConfiguredBlock(const ModelConfig& config) {
  if (!config.quantization) {
    throw Error(ErrorCode::kBadInput,
                "config.json: there is no quantization_config, but the checkpoint holds FP8 "
                "weights, whose block size only the config tells; restore the config.json that "
                "came with these weights",
                {"config.json", ""});
  }
  const QuantizationConfig& quantization = *config.quantization;
  if (quantization.quant_method != "fp8") {
    throw Error(ErrorCode::kBadInput,
                fmt::format("config.json: quantization_config.quant_method is \"{}\", expected "
                            "\"fp8\"; this command reads block-scaled FP8 checkpoints",
                            quantization.quant_method),
                {"config.json", ""});
  }
  if (!quantization.weight_block_size) {
    throw Error(ErrorCode::kBadInput,
                "config.json: quantization_config has no weight_block_size, expected the block of "
                "the scales such as [128, 128]; restore the config.json that came with these "
                "weights",
                {"config.json", ""});
  }
  return *quantization.weight_block_size;
}

void CheckPair(const Catalog& catalog, const CatalogTensor& weight, const CatalogTensor& scale,
               quant::BlockShape block) {
  if (weight.dtype != Dtype::kF8E4M3) {
    Fail(catalog, weight,
         fmt::format("tensor {} is {}, expected F8_E4M3; other FP8 formats are not converted",
                     QuoteForMessage(weight.name), formats::DtypeName(weight.dtype)));
  }
  if (weight.shape.size() != 2) {
    Fail(catalog, weight,
         fmt::format("FP8 tensor {} has shape {}, expected two dimensions, [rows, columns]",
                     QuoteForMessage(weight.name), formats::ShapeToString(weight.shape)));
  }
  if (!ScaleFormatOf(scale.dtype)) {
    Fail(catalog, scale,
         fmt::format("scale {} is {}, expected F32, BF16 or F8_E8M0", QuoteForMessage(scale.name),
                     formats::DtypeName(scale.dtype)));
  }
  const formats::Shape expected = BlockScaleShape(weight.shape, block);
  if (scale.shape != expected) {
    Fail(catalog, scale,
         fmt::format("scale {} has shape {}, expected {} for a weight of shape {} and the "
                     "weight_block_size [{}, {}] of config.json; either the config or the scale "
                     "belongs to another checkpoint",
                     QuoteForMessage(scale.name), formats::ShapeToString(scale.shape),
                     formats::ShapeToString(expected), formats::ShapeToString(weight.shape),
                     block.rows, block.cols));
  }
  if (expected[1] > kMaxScaleColumns) {
    Fail(catalog, scale,
         fmt::format("scale {} has {} columns, expected at most {}; the weight_block_size [{}, {}] "
                     "of config.json cannot be right for a weight of shape {}",
                     QuoteForMessage(scale.name), expected[1], kMaxScaleColumns, block.rows,
                     block.cols, formats::ShapeToString(weight.shape)));
  }
}

}  // namespace

std::vector<ScaledWeight> PairScales(const Catalog& catalog, const ModelConfig& config) {
  std::vector<ScaledWeight> pairs;
  std::uint32_t first_scale = Catalog::kNone;
  std::string name;
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    const CatalogTensor& tensor = catalog.tensors()[i];
    if (tensor.name.ends_with(kScaleSuffix)) {
      if (first_scale == Catalog::kNone) first_scale = i;
      const std::string_view weight_name =
          std::string_view(tensor.name).substr(0, tensor.name.size() - kScaleSuffix.size());
      const std::uint32_t weight = catalog.Find(weight_name);
      if (weight == Catalog::kNone || !IsFp8(catalog.tensors()[weight].dtype)) {
        Fail(catalog, tensor,
             weight == Catalog::kNone
                 ? fmt::format("scale {} has no weight: there is no tensor {}; the checkpoint "
                               "is incomplete",
                               QuoteForMessage(tensor.name), QuoteForMessage(weight_name))
                 : fmt::format("scale {} belongs to {}, which is {} and not FP8; was the "
                               "checkpoint converted in part?",
                               QuoteForMessage(tensor.name), QuoteForMessage(weight_name),
                               formats::DtypeName(catalog.tensors()[weight].dtype)));
      }
    } else if (IsFp8(tensor.dtype)) {
      name.assign(tensor.name).append(kScaleSuffix);
      const std::uint32_t scale = catalog.Find(name);
      if (scale == Catalog::kNone) {
        Fail(catalog, tensor,
             fmt::format("FP8 tensor {} has no scale: {} is in no shard; without it the "
                         "weight means nothing. The checkpoint is incomplete, download it again",
                         QuoteForMessage(tensor.name), QuoteForMessage(name)));
      }
      pairs.push_back({i, scale});
    }
  }
  if (pairs.empty()) {
    throw Error(ErrorCode::kBadInput,
                "this is no FP8 checkpoint: not one of its tensors is FP8, so there is nothing to "
                "convert to BF16");
  }
  const quant::BlockShape block = ConfiguredBlock(config);
  for (const ScaledWeight& pair : pairs) {
    CheckPair(catalog, catalog.tensors()[pair.weight], catalog.tensors()[pair.scale], block);
  }
  return pairs;
}

Plan PlanFp8ToBf16(const Catalog& catalog, const ModelConfig& config,
                   const std::vector<ScaledWeight>& pairs, const Fp8ToBf16Options& options,
                   bool write_index) {
  const quant::BlockShape block = ConfiguredBlock(config);
  std::vector<std::uint32_t> scale_of(catalog.tensors().size(), Catalog::kNone);
  std::vector<bool> is_scale(catalog.tensors().size(), false);
  for (const ScaledWeight& pair : pairs) {
    scale_of[pair.weight] = pair.scale;
    is_scale[pair.scale] = true;
  }

  Plan plan;
  plan.recipe = "fp8-to-bf16";
  plan.options = {{"allow_bad_scales", options.allow_bad_scales ? "true" : "false"}};
  std::vector<std::vector<std::pair<std::string, ExpressionPtr>>> files(catalog.files().size());
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    if (is_scale[i]) continue;
    const CatalogTensor& tensor = catalog.tensors()[i];
    files[tensor.extent.file].emplace_back(
        tensor.name, scale_of[i] == Catalog::kNone ? Copy(catalog, i)
                                                   : Dequantize(catalog, i, scale_of[i], block));
  }
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (files[i].empty()) continue;
    plan.files.push_back(PlanFile(catalog.files()[i].name, std::move(files[i])));
    plan.total_size += plan.files.back().bytes - plan.files.back().data_offset;
  }
  if (write_index) plan.index = PlanIndex(plan);
  return plan;
}

std::string ConfigForBf16(const std::string& config_text, const ModelConfig& config, Plan& plan) {
  const std::string file = "config.json";
  std::string text = config_text;
  // Multimodal configs nest the language model's fields; either level may carry any of these.
  std::vector<std::string> prefixes = {""};
  if (!config.prefix.empty()) prefixes.push_back(config.prefix);
  bool says_dtype = false;
  for (const std::string& prefix : prefixes) {
    const std::string quantization = prefix + "quantization_config";
    if (auto value = formats::JsonMember(text, quantization, file)) {
      plan.removed_config.emplace_back(quantization, std::move(*value));
      text = formats::RemoveJsonMember(text, quantization, file);
    }
    for (const std::string_view key : {"torch_dtype", "dtype"}) {
      const std::string path = prefix + std::string(key);
      if (auto value = formats::JsonMember(text, path, file)) {
        says_dtype = true;
        if (*value == "\"bfloat16\"") continue;
        plan.removed_config.emplace_back(path, std::move(*value));
        text = formats::ReplaceJsonMember(text, path, "\"bfloat16\"", file);
      }
    }
  }
  if (!says_dtype) text = formats::AppendJsonMember(text, "torch_dtype", "\"bfloat16\"", file);
  return text;
}

}  // namespace dsv3::convert
