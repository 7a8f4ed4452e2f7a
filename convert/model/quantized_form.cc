#include "convert/model/quantized_form.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/catalog/glob.h"
#include "convert/model/scale_names.h"
#include "formats/dtype.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kPacked = ".weight_packed";
constexpr std::string_view kQWeight = ".qweight";
constexpr std::string_view kBlocks = ".weight_blocks";
constexpr std::uint64_t kWordBits = 32;

// The names of forms that several rules find.
constexpr char kNvFp4[] = "NVFP4 (ModelOpt: E2M1, two values a byte)";
constexpr char kW4AFp8[] = "W4AFP8 (packed INT4, two values a byte)";
constexpr char kBlockInt8[] = "INT8 (in blocks)";
constexpr char kBitsandbytesInt8[] = "bitsandbytes int8";
constexpr char kPackedFp4[] = "packed FP4 (MXFP4: E2M1, two values a byte)";

// The tensors beside one that holds codes; `module` is its name without the last component.
class Neighbours {
 public:
  Neighbours(const Catalog& catalog, std::string_view module)
      : catalog_(catalog), module_(module) {}

  std::string Name(std::string_view part) const { return fmt::format("{}.{}", module_, part); }

  const CatalogTensor* Find(std::string_view part) const {
    const std::uint32_t position = catalog_.Find(Name(part));
    return position == Catalog::kNone ? nullptr : &catalog_.tensors()[position];
  }

  bool Has(std::string_view part) const { return Find(part) != nullptr; }

  std::string_view module() const { return module_; }

 private:
  const Catalog& catalog_;
  std::string_view module_;
};

// quant_method; "modelopt" where hf_quant_config.json alone describes the weights.
std::string_view MethodOf(const ModelConfig& config) {
  if (config.quantization) return config.quantization->quant_method;
  return config.modelopt ? std::string_view("modelopt") : std::string_view();
}

// ModelOpt's name of what it did: "FP8", "NVFP4", "W4A8_AWQ" …
std::string_view AlgorithmOf(const ModelConfig& config) {
  if (config.quantization && !config.quantization->quant_algo.empty()) {
    return config.quantization->quant_algo;
  }
  return config.modelopt ? std::string_view(config.modelopt->quant_algo) : std::string_view();
}

bool IsExcluded(const ModelConfig& config, std::string_view module) {
  if (!config.modelopt) return false;
  const std::string name(module);
  const std::vector<std::string>& excluded = config.modelopt->exclude_modules;
  return std::any_of(excluded.begin(), excluded.end(),
                     [&](const std::string& glob) { return MatchesGlob(glob, name); });
}

// "modelopt", and with the form behind it: "modelopt_fp4", "modelopt_mixed".
bool IsModelOpt(std::string_view method) { return method.starts_with("modelopt"); }

// INT4 in bytes: "W4A8_AWQ", "W4A16_AWQ", "INT4_AWQ".
bool IsModelOptInt4(const ModelConfig& config) {
  const std::string_view algorithm = AlgorithmOf(config);
  return IsModelOpt(MethodOf(config)) &&
         (algorithm.starts_with("W4A") || algorithm.starts_with("INT4"));
}

QuantizedForm ModelOptInt4(const ModelConfig& config, const Neighbours& beside) {
  return {fmt::format("ModelOpt {} (packed INT4, two rows a byte)", AlgorithmOf(config)),
          CodeLayout::kTwoRows, 0, beside.Name("weight_scale")};
}

// The width of integer codes that the groups of the config agree on.
std::uint64_t PackedBits(const ModelConfig& config) {
  std::uint64_t bits = 0;
  if (!config.quantization) return 0;
  for (const QuantizationGroup& group : config.quantization->groups) {
    if (group.type != "int") continue;
    if (bits != 0 && bits != group.num_bits) return 0;
    bits = group.num_bits;
  }
  return bits;
}

QuantizedForm Packed(const ModelConfig& config, const CatalogTensor& codes,
                     const Neighbours& beside) {
  const std::string scale = beside.Name("weight_scale");
  if (codes.dtype == Dtype::kI32) {
    const std::uint64_t bits = PackedBits(config);
    return {
        fmt::format("packed INT{} (pack-quantized of compressed-tensors)", bits == 0 ? 4 : bits),
        CodeLayout::kWordsOfRow, bits, scale};
  }
  const CatalogTensor* const scales = beside.Find("weight_scale");
  const bool nvfp4 =
      beside.Has("weight_global_scale") || (scales != nullptr && scales->dtype == Dtype::kF8E4M3);
  return {nvfp4 ? "NVFP4 (compressed-tensors: E2M1, two values a byte)"
                : "MXFP4 (compressed-tensors: E2M1, two values a byte)",
          CodeLayout::kTwoInByte, 0, scale};
}

// GPTQ packs codes along K and AWQ along N; both pack the zeros along N.
bool IsGptq(const ModelConfig& config, const CatalogTensor& codes, const Neighbours& beside) {
  if (beside.Has("g_idx")) return true;
  if (MethodOf(config) == "gptq" || MethodOf(config) == "awq") return MethodOf(config) == "gptq";
  const CatalogTensor* const zeros = beside.Find("qzeros");
  return zeros != nullptr && zeros->shape.size() == 2 && codes.shape.size() == 2 &&
         zeros->shape[1] != codes.shape[1];
}

// The width of a code: there is a zero for each scale, packed along N.
std::uint64_t BitsOfZeros(const Neighbours& beside) {
  const CatalogTensor* const zeros = beside.Find("qzeros");
  const CatalogTensor* const scales = beside.Find("scales");
  if (zeros == nullptr || scales == nullptr || zeros->shape.size() != 2 ||
      scales->shape.size() != 2) {
    return 0;
  }
  for (const std::uint64_t bits : {4U, 8U, 3U, 2U}) {
    if (zeros->shape[1] == CeilDiv(scales->shape[1] * bits, kWordBits)) return bits;
  }
  return 0;
}

QuantizedForm WordsOfColumns(const ModelConfig& config, const CatalogTensor& codes,
                             const Neighbours& beside) {
  const bool gptq = IsGptq(config, codes, beside);
  const std::uint64_t bits = BitsOfZeros(beside);
  return {fmt::format("{} (packed INT{})", gptq ? "GPTQ" : "AWQ", bits == 0 ? 4 : bits),
          gptq ? CodeLayout::kGptq : CodeLayout::kAwq, bits, beside.Name("scales")};
}

std::optional<QuantizedForm> UnsignedBytes(const ModelConfig& config, const Neighbours& beside) {
  if (beside.Has("weight.quant_state.bitsandbytes__nf4") ||
      beside.Has("weight.quant_state.bitsandbytes__fp4") || beside.Has("weight.absmax")) {
    const bool fp4 = beside.Has("weight.quant_state.bitsandbytes__fp4");
    return QuantizedForm{fp4 ? "bitsandbytes fp4" : "bitsandbytes nf4", CodeLayout::kFlat, 0,
                         beside.Name("weight.absmax")};
  }
  const CatalogTensor* const scale = beside.Find("weight_scale");
  if (beside.Has("weight_scale_2") || (scale != nullptr && scale->dtype == Dtype::kF8E4M3)) {
    return QuantizedForm{kNvFp4, CodeLayout::kTwoInByte, 0, beside.Name("weight_scale")};
  }
  if (IsModelOptInt4(config) && scale != nullptr) return ModelOptInt4(config, beside);
  for (const std::string_view part : {"weight_scale", "weight_scale_inv", "scale"}) {
    const CatalogTensor* const found = beside.Find(part);
    if (found == nullptr || (found->dtype != Dtype::kU8 && found->dtype != Dtype::kF8E8M0))
      continue;
    return QuantizedForm{"MXFP4 (E2M1, two values a byte)", CodeLayout::kTwoInByte, 0,
                         beside.Name(part)};
  }
  return std::nullopt;
}

// Whether each row has scales of its own, for groups of columns. Where a row has one scale alone,
// it counts as a group only if the group has room for two codes in each byte.
bool HasGroupsOfColumns(const CatalogTensor& codes, const CatalogTensor& scale) {
  constexpr std::uint64_t kGroup = 128;
  return codes.shape.size() == 2 && scale.shape.size() == 2 && codes.shape[0] == scale.shape[0] &&
         (scale.shape[1] > 1 || codes.shape[1] * 2 <= kGroup);
}

std::optional<QuantizedForm> SignedBytes(const ModelConfig& config, const CatalogTensor& codes,
                                         const Neighbours& beside) {
  if (beside.Has("SCB")) {
    return QuantizedForm{kBitsandbytesInt8, CodeLayout::kPlain, 0, beside.Name("SCB")};
  }
  if (const CatalogTensor* const scale = beside.Find("scale")) {
    const bool fp4 = scale->dtype == Dtype::kF8E8M0 || config.expert_dtype == "fp4";
    return QuantizedForm{fp4 ? kPackedFp4 : "INT8",
                         fp4 ? CodeLayout::kTwoInByte : CodeLayout::kPlain, 0,
                         beside.Name("scale")};
  }
  if (const CatalogTensor* const scale = beside.Find("weight_scale_inv")) {
    // W4AFP8 has one scale for 128 columns of one row, and two codes in a byte.
    const bool w4afp8 = MethodOf(config) == "w4afp8" ||
                        (MethodOf(config) != "blockwise_int8" && HasGroupsOfColumns(codes, *scale));
    return QuantizedForm{w4afp8 ? kW4AFp8 : kBlockInt8,
                         w4afp8 ? CodeLayout::kTwoInByte : CodeLayout::kPlain, 0,
                         beside.Name("weight_scale_inv")};
  }
  if (const CatalogTensor* const scale = beside.Find("weight_scale")) {
    if (scale->dtype == Dtype::kF8E8M0 || scale->dtype == Dtype::kU8) {
      return QuantizedForm{kPackedFp4, CodeLayout::kTwoInByte, 0, beside.Name("weight_scale")};
    }
    const bool w4afp8 = PackedBits(config) == 4;
    return QuantizedForm{w4afp8 ? "W4AFP8 (INT4, one value a byte)" : "INT8", CodeLayout::kPlain, 0,
                         beside.Name("weight_scale")};
  }
  return std::nullopt;
}

// FP8 weights with scales that the conversions do not read.
std::optional<QuantizedForm> Fp8(const ModelConfig& config, const CatalogTensor& codes,
                                 const Neighbours& beside) {
  constexpr std::uint64_t kMxGroup = 32;
  const std::string_view method = MethodOf(config);
  // compressed-tensors' own are read.
  if (method == "compressed-tensors") return std::nullopt;
  for (const std::string_view part : {"weight_scale", "weight_scale_inv"}) {
    const CatalogTensor* const scale = beside.Find(part);
    if (scale == nullptr) continue;
    const bool e8m0 = scale->dtype == Dtype::kU8 ||
                      (scale->dtype == Dtype::kF8E8M0 && !method.empty() && method != "fp8");
    if (e8m0 && codes.shape.size() == 2 &&
        scale->shape == Shape{codes.shape[0], CeilDiv(codes.shape[1], kMxGroup)}) {
      return QuantizedForm{"MXFP8 (E8M0 scales for 32 columns)", CodeLayout::kPlain, 0,
                           beside.Name(part)};
    }
    const bool by_neighbours = method.empty() && part == "weight_scale" &&
                               formats::NumElements(scale->shape) == 1 && beside.Has("input_scale");
    if (part == "weight_scale_inv" && !config.quantization && config.modelopt) {
      return QuantizedForm{fmt::format("FP8 with scales for blocks ({} of hf_quant_config.json)",
                                       config.modelopt->quant_algo),
                           CodeLayout::kPlain, 0, beside.Name(part)};
    }
    if (IsModelOpt(method) || by_neighbours) {
      return QuantizedForm{"ModelOpt FP8", CodeLayout::kPlain, 0, beside.Name(part)};
    }
  }
  return std::nullopt;
}

// Bytes with nothing beside them: only the config says that they are quantised.
std::optional<QuantizedForm> ByConfig(const ModelConfig& config, const CatalogTensor& codes,
                                      const Neighbours& beside) {
  const std::string_view method = MethodOf(config);
  if (method.empty() || codes.shape.size() != 2 || IsExcluded(config, beside.module())) {
    return std::nullopt;
  }
  const bool is_signed = codes.dtype == Dtype::kI8;
  const std::string scale = beside.Name("weight_scale");
  if (method == "bitsandbytes") {
    return is_signed ? QuantizedForm{kBitsandbytesInt8, CodeLayout::kPlain, 0, beside.Name("SCB")}
                     : QuantizedForm{"bitsandbytes (4 bits)", CodeLayout::kFlat, 0,
                                     beside.Name("weight.absmax")};
  }
  if (IsModelOptInt4(config) && !is_signed) return ModelOptInt4(config, beside);
  if (IsModelOpt(method) && !is_signed)
    return QuantizedForm{kNvFp4, CodeLayout::kTwoInByte, 0, scale};
  if (method == "w4afp8" && is_signed) {
    return QuantizedForm{kW4AFp8, CodeLayout::kTwoInByte, 0, beside.Name("weight_scale_inv")};
  }
  if (method == "blockwise_int8" && is_signed) {
    return QuantizedForm{kBlockInt8, CodeLayout::kPlain, 0, beside.Name("weight_scale_inv")};
  }
  return QuantizedForm{fmt::format("quantised {}", formats::DtypeName(codes.dtype)),
                       CodeLayout::kUnknown, 0, scale};
}

}  // namespace

std::optional<QuantizedForm> RecogniseForm(const Catalog& catalog, const ModelConfig& config,
                                           std::uint32_t position) {
  const CatalogTensor& tensor = catalog.tensors()[position];
  const Dtype dtype = tensor.dtype;
  const bool codes =
      dtype == Dtype::kI32 || dtype == Dtype::kU8 || dtype == Dtype::kI8 || dtype == Dtype::kF8E4M3;
  // Few names of plain tensors are looked at more closely.
  if (!codes) return std::nullopt;
  const std::string_view name = tensor.name;
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const Neighbours beside(catalog, name.substr(0, dot));
  if (name.ends_with(kPacked) && (dtype == Dtype::kI32 || dtype == Dtype::kU8)) {
    return Packed(config, tensor, beside);
  }
  if (name.ends_with(kQWeight) && dtype == Dtype::kI32)
    return WordsOfColumns(config, tensor, beside);
  if (name.ends_with(kBlocks) && dtype == Dtype::kU8) {
    return QuantizedForm{"MXFP4 (E2M1 in blocks of 32 columns)", CodeLayout::kUnknown, 0,
                         beside.Name("weight_scales")};
  }
  if (!name.ends_with(kWeight)) return std::nullopt;
  if (dtype == Dtype::kF8E4M3) return Fp8(config, tensor, beside);
  if (dtype == Dtype::kI32) return std::nullopt;
  auto form =
      dtype == Dtype::kU8 ? UnsignedBytes(config, beside) : SignedBytes(config, tensor, beside);
  return form ? std::move(form) : ByConfig(config, tensor, beside);
}

std::optional<StoredCodes> FindCodes(const Catalog& catalog, const ModelConfig& config,
                                     std::string_view weight) {
  if (!weight.ends_with(kWeight)) return std::nullopt;
  const std::string_view module = weight.substr(0, weight.size() - kWeight.size());
  for (const std::string_view part : {kWeight, kPacked, kQWeight, kBlocks}) {
    const std::uint32_t position = catalog.Find(std::string(module).append(part));
    if (position == Catalog::kNone) continue;
    auto form = RecogniseForm(catalog, config, position);
    if (form) return StoredCodes{position, std::move(*form)};
  }
  return std::nullopt;
}

std::vector<Shape> CodeShapes(const QuantizedForm& form, std::uint64_t rows, std::uint64_t cols) {
  std::vector<std::uint64_t> widths = {4, 8, 2, 3};
  if (form.bits != 0) widths = {form.bits};
  std::vector<Shape> shapes;
  switch (form.layout) {
    case CodeLayout::kPlain:
      return {{rows, cols}};
    case CodeLayout::kTwoInByte:
      return {{rows, CeilDiv(cols, 2)}};
    case CodeLayout::kTwoRows:
      return {{CeilDiv(rows, 2), cols}};
    case CodeLayout::kUnknown:
      return {};
    case CodeLayout::kFlat:
      return {{CeilDiv(rows * cols, 2), 1}};
    case CodeLayout::kWordsOfRow:
      // Codes of one word each, unless their width divides it.
      for (const std::uint64_t bits : widths) {
        shapes.push_back({rows, CeilDiv(cols, std::max<std::uint64_t>(1, kWordBits / bits))});
        shapes.push_back({rows, CeilDiv(cols * bits, kWordBits)});
      }
      return shapes;
    case CodeLayout::kAwq:
      for (const std::uint64_t bits : widths) {
        shapes.push_back({cols, CeilDiv(rows * bits, kWordBits)});
      }
      return shapes;
    case CodeLayout::kGptq:
      for (const std::uint64_t bits : widths) {
        shapes.push_back({CeilDiv(cols * bits, kWordBits), rows});
      }
      return shapes;
  }
  return shapes;
}

std::vector<std::string> NamesBesideWeight(std::string_view weight) {
  constexpr std::string_view kParts[] = {
      "weight_scale_inv",
      "weight_scale",
      "weight_scale_2",
      "weight_packed",
      "weight_shape",
      "weight_zero_point",
      "weight_g_idx",
      "weight_global_scale",
      "weight_blocks",
      "weight_scales",
      "weight_offset",
      "weight_format",
      "input_global_scale",
      "input_scale",
      "input_offset",
      "deq_scale",
      "quant_bias",
      "pre_quant_scale",
      "scale",
      "qweight",
      "qzeros",
      "scales",
      "g_idx",
      "SCB",
      "weight.absmax",
      "weight.quant_map",
      "weight.nested_absmax",
      "weight.nested_quant_map",
      "weight.quant_state.bitsandbytes__nf4",
      "weight.quant_state.bitsandbytes__fp4",
      "weight.SCB",
  };
  if (!weight.ends_with(kWeight)) return ScaleNamesOf(weight);  // transformers' fused experts
  std::vector<std::string> names;
  const std::string_view module = weight.substr(0, weight.size() - kWeight.size());
  for (const std::string_view part : kParts) names.push_back(fmt::format("{}.{}", module, part));
  return names;
}

}  // namespace dsv3::convert
