#include "convert/model/form_table.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/model/form_rules.h"
#include "convert/model/stored_instead.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using quant::CodeFormat;
using quant::TensorScaleUse;

using Evidence = FormEvidence;
using Parts = std::span<const std::string_view>;

// What is said of a form in several rows.
template <const char* kText>
std::string Named(const Evidence& /*evidence*/) {
  return kText;
}

template <const char* kPart>
std::string_view ScaleIs(const Evidence& /*evidence*/) {
  return kPart;
}

constexpr char kNvFp4[] = "NVFP4 (ModelOpt: E2M1, two values a byte)";
constexpr char kNvFp4Compressed[] = "NVFP4 (compressed-tensors: E2M1, two values a byte)";
constexpr char kMxFp4Compressed[] = "MXFP4 (compressed-tensors: E2M1, two values a byte)";
constexpr char kMxFp4Blocks[] = "MXFP4 (E2M1 in blocks of 32 columns)";
constexpr char kMxFp4[] = "MXFP4 (E2M1, two values a byte)";
constexpr char kPackedFp4[] = "packed FP4 (MXFP4: E2M1, two values a byte)";
constexpr char kMxFp8[] = "MXFP8 (E8M0 scales for 32 columns)";
constexpr char kModelOptFp8[] = "ModelOpt FP8";
constexpr char kInt8[] = "INT8";
constexpr char kStaticInt8[] = "INT8 (static W8A8 of msmodelslim)";
constexpr char kBlockInt8[] = "INT8 (in blocks)";
constexpr char kW4AFp8[] = "W4AFP8 (packed INT4, two values a byte)";
constexpr char kW4AFp8Bytes[] = "W4AFP8 (INT4, one value a byte)";
constexpr char kBitsandbytesInt8[] = "bitsandbytes int8";
constexpr char kBitsandbytesFp4[] = "bitsandbytes fp4";
constexpr char kBitsandbytesNf4[] = "bitsandbytes nf4";
constexpr char kMlx[] = "MLX (packed integers)";
constexpr char kBitsandbytes[] = "bitsandbytes (4 bits)";

constexpr char kWeightScale[] = "weight_scale";
constexpr char kScaleInv[] = "weight_scale_inv";
constexpr char kScale[] = "scale";
constexpr char kScales[] = "scales";
constexpr char kBlockScales[] = "weight_scales";
constexpr char kDeqScale[] = "deq_scale";
constexpr char kInputScale[] = "input_scale";
constexpr char kScb[] = "SCB";
constexpr char kAbsmax[] = "weight.absmax";
constexpr char kNf4State[] = "weight.quant_state.bitsandbytes__nf4";
constexpr char kFp4State[] = "weight.quant_state.bitsandbytes__fp4";

std::string PackedName(const Evidence& evidence) {
  const std::uint64_t bits = evidence.PackedBits();
  return fmt::format("packed INT{} (pack-quantized of compressed-tensors)", bits == 0 ? 4 : bits);
}

std::string ColumnsName(std::string_view tool, std::uint64_t bits) {
  return fmt::format("{} (packed INT{})", tool, bits == 0 ? 4 : bits);
}

std::string ModelOptInt4Name(const Evidence& evidence) {
  return fmt::format("ModelOpt {} (packed INT4, two rows a byte)", evidence.Algorithm());
}

std::string UnknownName(const Evidence& evidence) {
  return fmt::format("quantised {}", formats::DtypeName(evidence.codes().dtype));
}

bool HasDtype(const CatalogTensor* tensor, Dtype a, Dtype b) {
  return tensor != nullptr && (tensor->dtype == a || tensor->dtype == b);
}

// The part that holds E8M0 as such or as U8, of those that MXFP4 and MXFP8 use.
std::string_view E8M0Part(const Evidence& evidence) {
  for (const std::string_view part : {kWeightScale, kScaleInv, kScale}) {
    if (HasDtype(evidence.Find(part), Dtype::kU8, Dtype::kF8E8M0)) return part;
  }
  return "";
}

bool IsNvFp4Packed(const Evidence& evidence) {
  const CatalogTensor* const scale = evidence.Find(kWeightScale);
  return evidence.Has("weight_global_scale") ||
         (scale != nullptr && scale->dtype == Dtype::kF8E4M3);
}

bool IsNvFp4(const Evidence& evidence) {
  const CatalogTensor* const scale = evidence.Find(kWeightScale);
  return evidence.Has("weight_scale_2") || (scale != nullptr && scale->dtype == Dtype::kF8E4M3);
}

// GPTQ packs codes along K and AWQ along N; both pack the zeros along N.
bool IsGptq(const Evidence& evidence) {
  if (evidence.Has("g_idx")) return true;
  const std::string_view method = evidence.Method();
  if (method == "gptq" || method == "awq") return method == "gptq";
  const CatalogTensor* const zeros = evidence.Find("qzeros");
  const CatalogTensor& codes = evidence.codes();
  return zeros != nullptr && zeros->shape.size() == 2 && codes.shape.size() == 2 &&
         zeros->shape[1] != codes.shape[1];
}

// Whether each row has scales of its own, for groups of columns. Where a row has one scale alone,
// it counts as a group only if the group has room for two codes in each byte.
bool HasGroupsOfColumns(const CatalogTensor& codes, const CatalogTensor& scale) {
  constexpr std::uint64_t kGroup = 128;
  return codes.shape.size() == 2 && scale.shape.size() == 2 && codes.shape[0] == scale.shape[0] &&
         (scale.shape[1] > 1 || codes.shape[1] * 2 <= kGroup);
}

bool IsW4AFp8(const Evidence& evidence) {
  const CatalogTensor* const scale = evidence.Find(kScaleInv);
  if (scale == nullptr) return false;
  const std::string_view method = evidence.Method();
  return method == "w4afp8" ||
         (method != "blockwise_int8" && HasGroupsOfColumns(evidence.codes(), *scale));
}

bool IsFp4OfV4(const Evidence& evidence) {
  const CatalogTensor* const scale = evidence.Find(kScale);
  return scale != nullptr &&
         (scale->dtype == Dtype::kF8E8M0 || evidence.config().expert_dtype == "fp4");
}

// The part that holds the scales of MXFP8; empty where it is none. compressed-tensors' own is read
// as FP8.
std::string_view MxFp8Part(const Evidence& evidence) {
  constexpr std::uint64_t kMxGroup = 32;
  const std::string_view method = evidence.Method();
  const formats::Shape& shape = evidence.codes().shape;
  if (method == "compressed-tensors" || shape.size() != 2) return "";
  for (const std::string_view part : {kWeightScale, kScaleInv}) {
    const CatalogTensor* const scale = evidence.Find(part);
    if (scale == nullptr) continue;
    const bool e8m0 = scale->dtype == Dtype::kU8 ||
                      (scale->dtype == Dtype::kF8E8M0 && !method.empty() && method != "fp8");
    if (e8m0 && scale->shape == formats::Shape{shape[0], CeilDiv(shape[1], kMxGroup)}) return part;
  }
  return "";
}

bool IsModelOptFp8(const Evidence& evidence) {
  const CatalogTensor* const scale = evidence.Find(kWeightScale);
  if (scale == nullptr || evidence.Method() == "compressed-tensors") return false;
  const bool by_neighbours = evidence.Method().empty() && formats::NumElements(scale->shape) == 1 &&
                             evidence.Has("input_scale");
  return evidence.IsModelOpt() || by_neighbours;
}

// Bytes with nothing beside them: only the config says that they are quantised.
bool IsByConfig(const Evidence& evidence) {
  return !evidence.Method().empty() && evidence.codes().shape.size() == 2 && !evidence.IsExcluded();
}

// What a method that is not known keeps beside codes is not known, either.
std::string_view ScaleOfKnownMethod(const Evidence& evidence) {
  if (!IsKnownMethod(evidence.config())) return "";
  return evidence.config().v4 ? kScale : kWeightScale;
}

template <const char* kMethod>
bool IsByMethod(const Evidence& evidence) {
  return IsByConfig(evidence) && evidence.Method() == kMethod;
}
constexpr char kMethodBitsandbytes[] = "bitsandbytes";
constexpr char kMethodW4AFp8[] = "w4afp8";
constexpr char kMethodBlockInt8[] = "blockwise_int8";

constexpr std::array<std::string_view, 4> kPackedParts = {kWeightScale, "weight_zero_point",
                                                          "weight_shape", "weight_g_idx"};
constexpr std::array<std::string_view, 3> kNvFp4CompressedParts = {
    kWeightScale, "weight_global_scale", "input_global_scale"};
constexpr std::array<std::string_view, 3> kNvFp4Parts = {kWeightScale, "weight_scale_2",
                                                         "pre_quant_scale"};
constexpr std::array<std::string_view, 4> kColumnParts = {kScales, "qzeros", "g_idx", "bias"};
constexpr std::array<std::string_view, 2> kWeightScaleParts = {kWeightScale, "pre_quant_scale"};
constexpr std::array<std::string_view, 2> kScaleInvParts = {kScaleInv, "pre_quant_scale"};
constexpr std::array<std::string_view, 1> kScalePart = {kScale};
constexpr std::array<std::string_view, 1> kBlockParts = {kBlockScales};
constexpr std::array<std::string_view, 7> kInt8Parts = {
    kWeightScale,   "weight_offset", "weight_zero_point", "weight_g_idx",
    "input_offset", "deq_scale",     "quant_bias"};
constexpr std::array<std::string_view, 4> kStaticInt8Parts = {kDeqScale, kInputScale,
                                                              "input_offset", "quant_bias"};
constexpr std::array<std::string_view, 2> kMlxParts = {kScales, "biases"};
constexpr std::array<std::string_view, 3> kBitsandbytesInt8Parts = {kScb, "weight_format",
                                                                    "weight.SCB"};
constexpr std::array<std::string_view, 6> kBitsandbytesParts = {
    kAbsmax,   "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",
    kNf4State, kFp4State};

constexpr std::array<std::string_view, 1> kNeededOfPacked = {"weight_shape"};
constexpr std::array<std::string_view, 2> kNeededOfStaticInt8 = {"input_offset", "quant_bias"};

constexpr FormDecoding kDecodePacked{.codes = CodeFormat::kI4Offset,
                                     .rules = Int4Groups,
                                     .packed_zeros = "weight_zero_point",
                                     .range = PackedInt4Range,
                                     .needed = kNeededOfPacked};
constexpr FormDecoding kDecodeAwq{
    .codes = CodeFormat::kI4Offset, .rules = AwqGroups, .packed_zeros = "qzeros"};
constexpr FormDecoding kDecodeNvFp4{.codes = CodeFormat::kE2M1,
                                    .rules = GroupsOf<16>,
                                    .scales = ScaleKind::kE4M3,
                                    .tensor_scale = "weight_scale_2"};
constexpr FormDecoding kDecodeNvFp4Compressed{.codes = CodeFormat::kE2M1,
                                              .rules = GroupsOf<16>,
                                              .scales = ScaleKind::kE4M3,
                                              .tensor_scale = "weight_global_scale",
                                              .tensor_scale_use = TensorScaleUse::kDivide};
constexpr FormDecoding kDecodeMxFp4{
    .codes = CodeFormat::kE2M1, .rules = GroupsOf<32>, .scales = ScaleKind::kE8M0};
constexpr FormDecoding kDecodeMxFp8{
    .codes = CodeFormat::kE4M3, .rules = GroupsOf<32>, .scales = ScaleKind::kE8M0};
constexpr FormDecoding kDecodeModelOptFp8{.codes = CodeFormat::kE4M3, .rules = ModelOptFp8Scales};
constexpr FormDecoding kDecodeFp8Blocks{.codes = CodeFormat::kE4M3, .rules = BlocksOf128};
constexpr FormDecoding kDecodeInt8{
    .codes = CodeFormat::kI8, .rules = Int8Scales, .zeros = {"weight_offset", "weight_zero_point"}};
// deq_scale is the scale of a row of the weight times that of the activations.
constexpr FormDecoding kDecodeStaticInt8{.codes = CodeFormat::kI8,
                                         .rules = Int8Scales,
                                         .tensor_scale = kInputScale,
                                         .tensor_scale_use = TensorScaleUse::kDivide,
                                         .needed = kNeededOfStaticInt8};
constexpr FormDecoding kDecodeInt8Blocks{.codes = CodeFormat::kI8, .rules = Int8Blocks};
constexpr FormDecoding kDecodeW4AFp8{.codes = CodeFormat::kI4, .rules = GroupsOf<128>};
constexpr FormDecoding kDecodeW4AFp8Bytes{
    .codes = CodeFormat::kI8, .rules = Int4Groups, .range = Int4Range};

// From the surest companion of a form to the least: some forms keep more tensors than others.
const FormRow kTable[] = {
    {"weight_packed", Dtype::kI32, [](const Evidence&) { return true; }, PackedName,
     CodeLayout::kWordsOfRow, [](const Evidence& e) { return e.PackedBits(); },
     ScaleIs<kWeightScale>, kPackedParts, kDecodePacked},
    {"weight_packed", Dtype::kU8, IsNvFp4Packed, Named<kNvFp4Compressed>, CodeLayout::kTwoInByte,
     nullptr, ScaleIs<kWeightScale>, kNvFp4CompressedParts, kDecodeNvFp4Compressed},
    {"weight_packed", Dtype::kU8, [](const Evidence&) { return true; }, Named<kMxFp4Compressed>,
     CodeLayout::kTwoInByte, nullptr, ScaleIs<kWeightScale>, kWeightScaleParts, kDecodeMxFp4},
    {"qweight", Dtype::kI32, IsGptq,
     [](const Evidence& e) { return ColumnsName("GPTQ", e.BitsOfZeros()); }, CodeLayout::kGptq,
     [](const Evidence& e) { return e.BitsOfZeros(); }, ScaleIs<kScales>, kColumnParts,
     std::nullopt},
    {"qweight", Dtype::kI32, [](const Evidence&) { return true; },
     [](const Evidence& e) { return ColumnsName("AWQ", e.AwqBits()); }, CodeLayout::kAwq,
     [](const Evidence& e) { return e.AwqBits(); }, ScaleIs<kScales>, kColumnParts, kDecodeAwq},
    {"weight_blocks", Dtype::kU8, [](const Evidence&) { return true; }, Named<kMxFp4Blocks>,
     CodeLayout::kUnknown, nullptr, ScaleIs<kBlockScales>, kBlockParts, std::nullopt},

    {"weight",
     Dtype::kF8E4M3,
     [](const Evidence& e) { return !MxFp8Part(e).empty(); },
     Named<kMxFp8>,
     CodeLayout::kPlain,
     nullptr,
     MxFp8Part,
     {},
     kDecodeMxFp8},
    {"weight", Dtype::kF8E4M3, IsModelOptFp8, Named<kModelOptFp8>, CodeLayout::kPlain, nullptr,
     ScaleIs<kWeightScale>, kWeightScaleParts, kDecodeModelOptFp8},
    {"weight", Dtype::kF8E4M3,
     [](const Evidence& e) {
       return e.Has(kScaleInv) && !e.config().quantization && e.config().modelopt;
     },
     [](const Evidence& e) {
       return fmt::format("FP8 with scales for blocks ({} of hf_quant_config.json)", e.Algorithm());
     },
     CodeLayout::kPlain, nullptr, ScaleIs<kScaleInv>, kScaleInvParts, kDecodeFp8Blocks},
    {"weight", Dtype::kF8E4M3, [](const Evidence& e) { return e.Has(kScaleInv) && e.IsModelOpt(); },
     Named<kModelOptFp8>, CodeLayout::kPlain, nullptr, ScaleIs<kScaleInv>, kScaleInvParts,
     kDecodeModelOptFp8},

    {"weight", Dtype::kU8, [](const Evidence& e) { return e.Has(kFp4State); },
     Named<kBitsandbytesFp4>, CodeLayout::kFlat, nullptr, ScaleIs<kAbsmax>, kBitsandbytesParts,
     std::nullopt},
    {"weight", Dtype::kU8, [](const Evidence& e) { return e.Has(kNf4State) || e.Has(kAbsmax); },
     Named<kBitsandbytesNf4>, CodeLayout::kFlat, nullptr, ScaleIs<kAbsmax>, kBitsandbytesParts,
     std::nullopt},
    {"weight", Dtype::kU8, IsNvFp4, Named<kNvFp4>, CodeLayout::kTwoInByte, nullptr,
     ScaleIs<kWeightScale>, kNvFp4Parts, kDecodeNvFp4},
    {"weight", Dtype::kU8,
     [](const Evidence& e) { return e.IsModelOptInt4() && e.Has(kWeightScale); }, ModelOptInt4Name,
     CodeLayout::kTwoRows, nullptr, ScaleIs<kWeightScale>, kWeightScaleParts, std::nullopt},
    {"weight",
     Dtype::kU8,
     [](const Evidence& e) { return !E8M0Part(e).empty(); },
     Named<kMxFp4>,
     CodeLayout::kTwoInByte,
     nullptr,
     E8M0Part,
     {},
     kDecodeMxFp4},

    {"weight", Dtype::kI8, [](const Evidence& e) { return e.Has(kScb); }, Named<kBitsandbytesInt8>,
     CodeLayout::kPlain, nullptr, ScaleIs<kScb>, kBitsandbytesInt8Parts, std::nullopt},
    {"weight", Dtype::kI8, IsFp4OfV4, Named<kPackedFp4>, CodeLayout::kTwoInByte, nullptr,
     ScaleIs<kScale>, kScalePart, kDecodeMxFp4},
    {"weight", Dtype::kI8, [](const Evidence& e) { return e.Has(kScale); }, Named<kInt8>,
     CodeLayout::kPlain, nullptr, ScaleIs<kScale>, kScalePart, kDecodeInt8},
    {"weight", Dtype::kI8, IsW4AFp8, Named<kW4AFp8>, CodeLayout::kTwoInByte, nullptr,
     ScaleIs<kScaleInv>, kScaleInvParts, kDecodeW4AFp8},
    {"weight", Dtype::kI8, [](const Evidence& e) { return e.Has(kScaleInv); }, Named<kBlockInt8>,
     CodeLayout::kPlain, nullptr, ScaleIs<kScaleInv>, kScaleInvParts, kDecodeInt8Blocks},
    {"weight", Dtype::kI8,
     [](const Evidence& e) { return HasDtype(e.Find(kWeightScale), Dtype::kF8E8M0, Dtype::kU8); },
     Named<kPackedFp4>, CodeLayout::kTwoInByte, nullptr, ScaleIs<kWeightScale>, kWeightScaleParts,
     kDecodeMxFp4},
    {"weight", Dtype::kI8,
     [](const Evidence& e) { return e.Has(kWeightScale) && e.PackedBits() == 4; },
     Named<kW4AFp8Bytes>, CodeLayout::kPlain, nullptr, ScaleIs<kWeightScale>, kInt8Parts,
     kDecodeW4AFp8Bytes},
    {"weight", Dtype::kI8, [](const Evidence& e) { return e.Has(kWeightScale); }, Named<kInt8>,
     CodeLayout::kPlain, nullptr, ScaleIs<kWeightScale>, kInt8Parts, kDecodeInt8},
    {"weight", Dtype::kI8, [](const Evidence& e) { return e.Has(kDeqScale); }, Named<kStaticInt8>,
     CodeLayout::kPlain, nullptr, ScaleIs<kDeqScale>, kStaticInt8Parts, kDecodeStaticInt8},

    {"weight", Dtype::kU32, [](const Evidence& e) { return e.Has(kScales); }, Named<kMlx>,
     CodeLayout::kWordsOfRow, nullptr, ScaleIs<kScales>, kMlxParts, std::nullopt},

    {"weight", Dtype::kI8, IsByMethod<kMethodBitsandbytes>, Named<kBitsandbytesInt8>,
     CodeLayout::kPlain, nullptr, ScaleIs<kScb>, kBitsandbytesInt8Parts, std::nullopt},
    {"weight", Dtype::kU8, IsByMethod<kMethodBitsandbytes>, Named<kBitsandbytes>, CodeLayout::kFlat,
     nullptr, ScaleIs<kAbsmax>, kBitsandbytesParts, std::nullopt},
    {"weight",
     Dtype::kU8,
     [](const Evidence& e) { return IsByConfig(e) && e.IsModelOptMxFp4(); },
     Named<kMxFp4>,
     CodeLayout::kTwoInByte,
     nullptr,
     ScaleIs<kWeightScale>,
     {},
     kDecodeMxFp4},
    {"weight", Dtype::kU8, [](const Evidence& e) { return IsByConfig(e) && e.IsModelOptInt4(); },
     ModelOptInt4Name, CodeLayout::kTwoRows, nullptr, ScaleIs<kWeightScale>, kWeightScaleParts,
     std::nullopt},
    {"weight", Dtype::kU8, [](const Evidence& e) { return IsByConfig(e) && e.IsModelOpt(); },
     Named<kNvFp4>, CodeLayout::kTwoInByte, nullptr, ScaleIs<kWeightScale>, kNvFp4Parts,
     kDecodeNvFp4},
    {"weight", Dtype::kI8, IsByMethod<kMethodW4AFp8>, Named<kW4AFp8>, CodeLayout::kTwoInByte,
     nullptr, ScaleIs<kScaleInv>, kScaleInvParts, kDecodeW4AFp8},
    {"weight", Dtype::kI8, IsByMethod<kMethodBlockInt8>, Named<kBlockInt8>, CodeLayout::kPlain,
     nullptr, ScaleIs<kScaleInv>, kScaleInvParts, kDecodeInt8Blocks},
    {"weight", Dtype::kI8, IsByConfig, UnknownName, CodeLayout::kUnknown, nullptr,
     ScaleOfKnownMethod, kWeightScaleParts, std::nullopt},
    {"weight", Dtype::kU8, IsByConfig, UnknownName, CodeLayout::kUnknown, nullptr,
     ScaleOfKnownMethod, kWeightScaleParts, std::nullopt},
};

constexpr std::array<std::string_view, 20> kTelling = {kScaleInv,
                                                       kWeightScale,
                                                       "weight_scale_2",
                                                       "weight_global_scale",
                                                       "input_global_scale",
                                                       "weight_offset",
                                                       "weight_zero_point",
                                                       "weight_shape",
                                                       "weight_g_idx",
                                                       "pre_quant_scale",
                                                       "input_offset",
                                                       kDeqScale,
                                                       "quant_bias",
                                                       "qzeros",
                                                       "g_idx",
                                                       kScales,
                                                       kScale,
                                                       kScb,
                                                       kAbsmax,
                                                       kBlockScales};

}  // namespace

std::span<const FormRow> FormTable() { return kTable; }

const FormRow* FindFormRow(const FormEvidence& evidence, std::string_view part) {
  const auto row = std::find_if(std::begin(kTable), std::end(kTable), [&](const FormRow& each) {
    return each.codes == part && each.dtype == evidence.codes().dtype && each.is(evidence);
  });
  return row == std::end(kTable) ? nullptr : row;
}

std::span<const std::string_view> TellingParts() { return kTelling; }

}  // namespace dsv3::convert
