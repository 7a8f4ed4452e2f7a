#include "convert/recipes/quantize_targets.h"

#include <bit>

#include <fmt/format.h>

#include "convert/recipes/compressed_tensors_config.h"
#include "convert/recipes/modelopt_config.h"
#include "formats/error.h"
#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

// Activations in INT8 for each token, at run time: the preset W8A8.
QuantizedConfig Int8Config(const TensorSelection& selection) {
  CompressedTensorsScheme scheme;
  scheme.format = "int-quantized";
  scheme.weights = {.strategy = "channel"};
  scheme.activations = CompressedTensorsArguments{.strategy = "token", .dynamic = true};
  return {CompressedTensorsConfig(scheme, selection.linears_left), ""};
}

// The preset W4A16 in groups of 32.
QuantizedConfig Int4Config(const TensorSelection& selection) {
  CompressedTensorsScheme scheme;
  scheme.format = "pack-quantized";
  scheme.weights = {.num_bits = 4, .strategy = "group", .group_size = 32};
  return {CompressedTensorsConfig(scheme, selection.linears_left), ""};
}

// SGLang reads it.
QuantizedConfig BlockInt8Config(const TensorSelection& selection) {
  formats::JsonWriter json(0);
  json.BeginObject();
  json.String("activation_scheme", "dynamic");
  if (!selection.modules_to_not_convert.empty()) {
    json.Strings("ignored_layers", selection.modules_to_not_convert);
  }
  json.String("quant_method", "blockwise_int8");
  json.Uints("weight_block_size", {128, 128});
  json.EndObject();
  return {json.Take(), ""};
}

// The presets NVFP4A16 and MXFP4A16: activations stay as they are.
QuantizedConfig Fp4Config(std::string_view format, std::string_view strategy, std::uint64_t group,
                          std::string_view scale_dtype, const TensorSelection& selection) {
  CompressedTensorsScheme scheme;
  scheme.format = format;
  scheme.weights = {.num_bits = 4,
                    .type = "float",
                    .strategy = strategy,
                    .group_size = group,
                    .scale_dtype = scale_dtype};
  return {CompressedTensorsConfig(scheme, selection.linears_left), ""};
}

QuantizedConfig NvFp4Config(const TensorSelection& selection) {
  return Fp4Config("nvfp4-pack-quantized", "tensor_group", 16, "torch.float8_e4m3fn", selection);
}

QuantizedConfig MxFp4Config(const TensorSelection& selection) {
  return Fp4Config("mxfp4-pack-quantized", "group", 32, "torch.uint8", selection);
}

// The preset MXFP8: activations in groups, at run time.
QuantizedConfig MxFp8Config(const TensorSelection& selection) {
  CompressedTensorsScheme scheme;
  scheme.format = "mxfp8-quantized";
  scheme.weights = {
      .type = "float", .strategy = "group", .group_size = 32, .scale_dtype = "torch.uint8"};
  scheme.activations = scheme.weights;
  scheme.activations->dynamic = true;
  return {CompressedTensorsConfig(scheme, selection.linears_left), ""};
}

QuantizedConfig ModelOptConfigOf(std::string_view algorithm, std::uint64_t group,
                                 const TensorSelection& selection) {
  ModelOptConfig config;
  config.quant_algo = algorithm;
  config.group_size = group;
  config.exclude_modules = selection.linears_left;
  return {"", HfQuantConfigText(config)};
}

QuantizedConfig ModelOptNvFp4Config(const TensorSelection& selection) {
  return ModelOptConfigOf("NVFP4", 16, selection);
}

// ModelOpt has no other word for it.
QuantizedConfig ModelOptMxFp4Config(const TensorSelection& selection) {
  return ModelOptConfigOf("mxfp4", 32, selection);
}

QuantizedConfig ModelOptMxFp8Config(const TensorSelection& selection) {
  return ModelOptConfigOf("MXFP8", 32, selection);
}

Fp8Form Fp8FormOf(quant::QuantizeRecipe recipe) {
  Bf16ToFp8Options options;
  options.recipe = recipe;
  return FormOfOptions(options);
}

template <quant::QuantizeRecipe kRecipe>
QuantizedConfig Fp8Config(const TensorSelection& selection) {
  return {QuantizationConfigJson(Fp8FormOf(kRecipe), selection), ""};
}

std::vector<ConstantPart> WeightShape(std::uint64_t rows, std::uint64_t cols) {
  static_assert(std::endian::native == std::endian::little);
  const std::uint64_t dimensions[] = {rows, cols};
  const auto bytes = std::as_bytes(std::span(dimensions));
  return {{"weight_shape", Dtype::kI64, {2}, {bytes.begin(), bytes.end()}}};
}

// As in NVIDIA's exports without calibration; readers need it.
std::vector<ConstantPart> InputScale(std::uint64_t /*rows*/, std::uint64_t /*cols*/) {
  constexpr float kUncalibrated = 1.0F;
  const auto bytes = std::as_bytes(std::span(&kUncalibrated, 1));
  return {{"input_scale", Dtype::kF32, {}, {bytes.begin(), bytes.end()}}};
}

bool AllShare(std::string_view /*module*/) { return true; }

// Those that model_free_ptq takes for one matrix: of dense MLPs under Hugging Face's names, and all
// under DeepSeek's.
bool FusedOnesShare(std::string_view module) {
  const std::size_t dot = module.rfind('.');
  const std::string_view last = module.substr(dot == std::string_view::npos ? 0 : dot + 1);
  if (last == "w1" || last == "w3") return true;
  return dot != std::string_view::npos && module.substr(0, dot).ends_with("mlp");
}

std::vector<QuantizeTarget> MakeTargets() {
  using Recipe = quant::QuantizeRecipe;
  return {
      {.to = QuantizeTo::kInt8,
       .tool = QuantizeTool::kLlmCompressor,
       .name = "INT8",
       .rule = quant::LlmCompressorInt8,
       .config = Int8Config},
      {.to = QuantizeTo::kInt8Block,
       .tool = QuantizeTool::kDeepSeek,
       .name = "INT8 in blocks",
       .rule = quant::BlockInt8,
       .scale = "weight_scale_inv",
       .config = BlockInt8Config},
      {.to = QuantizeTo::kInt4,
       .tool = QuantizeTool::kLlmCompressor,
       .name = "INT4",
       .modules = QuantizeModules::kExperts,
       .rule = quant::LlmCompressorInt4,
       .codes = "weight_packed",
       .codes_dtype = Dtype::kI32,
       .constants = WeightShape,
       .config = Int4Config},
      {.to = QuantizeTo::kNvFp4,
       .tool = QuantizeTool::kModelOpt,
       .name = "NVFP4",
       .modules = QuantizeModules::kExperts,
       .rule = quant::ModelOptNvFp4,
       .codes_dtype = Dtype::kU8,
       .tensor_scale = "weight_scale_2",
       .shares_gate_up = AllShare,
       .constants = InputScale,
       .config = ModelOptNvFp4Config},
      {.to = QuantizeTo::kNvFp4,
       .tool = QuantizeTool::kLlmCompressor,
       .name = "NVFP4",
       .modules = QuantizeModules::kExperts,
       .rule = quant::LlmCompressorNvFp4,
       .codes = "weight_packed",
       .codes_dtype = Dtype::kU8,
       .tensor_scale = "weight_global_scale",
       .tensor_scale_is_vector = true,
       .shares_gate_up = FusedOnesShare,
       .config = NvFp4Config},
      {.to = QuantizeTo::kMxFp4,
       .tool = QuantizeTool::kLlmCompressor,
       .name = "MXFP4",
       .modules = QuantizeModules::kExperts,
       .rule = quant::LlmCompressorMxFp4,
       .codes = "weight_packed",
       .codes_dtype = Dtype::kU8,
       .scale_dtype = Dtype::kU8,
       .config = MxFp4Config},
      {.to = QuantizeTo::kMxFp4,
       .tool = QuantizeTool::kModelOpt,
       .name = "MXFP4",
       .modules = QuantizeModules::kExperts,
       .rule = quant::ModelOptMxFp4,
       .codes_dtype = Dtype::kU8,
       .scale_dtype = Dtype::kU8,
       .config = ModelOptMxFp4Config},
      {.to = QuantizeTo::kMxFp8,
       .tool = QuantizeTool::kLlmCompressor,
       .name = "MXFP8",
       .rule = quant::LlmCompressorMxFp8,
       .codes_dtype = Dtype::kF8E4M3,
       .scale_dtype = Dtype::kU8,
       .config = MxFp8Config},
      {.to = QuantizeTo::kMxFp8,
       .tool = QuantizeTool::kModelOpt,
       .name = "MXFP8",
       .rule = quant::ModelOptMxFp8,
       .codes_dtype = Dtype::kF8E4M3,
       .scale_dtype = Dtype::kU8,
       .config = ModelOptMxFp8Config},
      {.to = QuantizeTo::kFp8,
       .tool = QuantizeTool::kDeepSeek,
       .name = "FP8",
       .rule = quant::DeepSeekFp8,
       .codes_dtype = Dtype::kF8E4M3,
       .scale = "weight_scale_inv",
       .config = Fp8Config<Recipe::kDeepSeek>,
       .fp8 = Fp8FormOf(Recipe::kDeepSeek)},
      {.to = QuantizeTo::kFp8,
       .tool = QuantizeTool::kLlmCompressor,
       .name = "FP8",
       .rule = quant::LlmCompressorFp8,
       .codes_dtype = Dtype::kF8E4M3,
       .config = Fp8Config<Recipe::kLlmCompressor>,
       .fp8 = Fp8FormOf(Recipe::kLlmCompressor)},
  };
}

}  // namespace

std::span<const QuantizeTarget> QuantizeTargets() {
  static const std::vector<QuantizeTarget> kTargets = MakeTargets();
  return kTargets;
}

const QuantizeTarget& TargetOf(const QuantizeOptions& options) {
  if (!options.to) {
    throw Error(ErrorCode::kUsage,
                "--to is missing; give the form to write: int8, int8-block, int4, nvfp4, mxfp4, "
                "mxfp8 or fp8");
  }
  std::string tools;
  for (const QuantizeTarget& target : QuantizeTargets()) {
    if (target.to != *options.to) continue;
    if (!options.tool || target.tool == *options.tool) return target;
    tools += fmt::format("{}{}", tools.empty() ? "" : " or ", QuantizeToolName(target.tool));
  }
  if (tools.empty() || !options.tool) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--to {}: no recipe writes this form", QuantizeToName(*options.to)));
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("--recipe {} does not go with --to {}, which is written by {}; leave "
                          "--recipe out",
                          QuantizeToolName(*options.tool), QuantizeToName(*options.to), tools));
}

std::string_view QuantizeToName(QuantizeTo to) {
  switch (to) {
    case QuantizeTo::kInt8:
      return "int8";
    case QuantizeTo::kInt8Block:
      return "int8-block";
    case QuantizeTo::kInt4:
      return "int4";
    case QuantizeTo::kNvFp4:
      return "nvfp4";
    case QuantizeTo::kMxFp4:
      return "mxfp4";
    case QuantizeTo::kMxFp8:
      return "mxfp8";
    case QuantizeTo::kFp8:
      break;
  }
  return "fp8";
}

std::string_view QuantizeToolName(QuantizeTool tool) {
  switch (tool) {
    case QuantizeTool::kLlmCompressor:
      return "llm-compressor";
    case QuantizeTool::kModelOpt:
      return "modelopt";
    case QuantizeTool::kDeepSeek:
      break;
  }
  return "deepseek";
}

std::string_view QuantizeModulesName(QuantizeModules modules) {
  return modules == QuantizeModules::kExperts ? "experts" : "linear";
}

}  // namespace dsv3::convert
